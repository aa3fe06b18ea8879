"""overlap: how alike a candidate's gradients are on the data and on text like it was pretrained on.

Key: model, tokens, sample, the text, seed and the kernel's settings. Table: ``summary``. There is
none for a candidate of whose pretraining text nothing is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lensllm.config.sections import Pipeline
from lensllm.core.meter import Meter
from lensllm.data.builtin import pretraining_text
from tasks.base.model import Model
from tasks.base.plan import Plan, per_candidate
from tasks.base.stage import Stage
from tasks.base.step import BuildContext, Step, first_row
from tasks.base.training import split_rows
from tasks.stages import kernel, pretext

# As many settle the alignment to about a tenth, for twice the price of such a kernel.
_MOST_PROBES = 64
_FILE = "file"  # what windows call the texts of a user's file, all of one kind


def step(plan: Plan, model: Model) -> Step | None:
    """The step of ``model``; None where there is no text like its pretraining data."""
    config, source = plan.config, plan.config.kernel.pretraining_text
    if not config.kernel.enabled:
        return None
    params: dict[str, Any] = {
        "probes": _probes(config),
        "method": config.kernel.method,
        "memory_gib": config.kernel.memory_gib,
        **kernel.adapted(config, model),
        "seed": config.seed,
        **model.params,
    }
    upstream = plan.training_inputs(model)
    if model.specification:
        params["shares"] = dict(model.specification.mix)
        upstream["pretext"] = pretext.step().ref
    elif source:
        params |= {"shares": {_FILE: 1.0}, "text": pretraining_text.fingerprint(source)}
    else:
        return None
    hints = {
        "candidate": model.name,
        "model": str(model.folder),
        "tokenizer": str(model.tokenizer_folder),
        "text": source,
        "device": config.engine.device,
    }
    return STAGE.step(
        f"overlap {model.name}",
        params,
        upstream,
        hints,
        timeout_seconds=60 * config.engine.cell_timeout_minutes,
        weight=model.work,
    )


def check(config: Pipeline) -> None:
    """Raise ``DataError`` now, not after the sweep, for a text that cannot be read."""
    source = config.kernel.pretraining_text
    if config.kernel.enabled and source:
        pretraining_text.check(source, _probes(config))


def _probes(config: Pipeline) -> int:
    return min(config.kernel.probes, _MOST_PROBES)


def build(context: BuildContext) -> None:
    from lensllm.data.tokens import select, windows
    from lensllm.models import cost, load
    from lensllm.ntk import residual_kernel
    from lensllm.ntk.overlap import alignment

    params = context.params
    device = load.choose_device(context.hints["device"])
    meter = Meter(device)
    model = kernel.load_trainable(context, device)
    tokens = context.table("tokens", "examples")
    rows = split_rows(context.store, context.upstream["sample"], "train")[: params["probes"]]
    probes = select(tokens, rows)
    length = max(2, int(np.median([len(probe) for probe in probes])))
    others = windows(
        _texts(context),
        params["shares"],
        load.load_tokenizer(Path(context.hints["tokenizer"])),
        length,
        len(probes),
        params["seed"],
    )
    both = [*probes, *others]
    memory_bytes = int(params["memory_gib"] * 2**30)
    spanned = residual_kernel(model, both, method=params["method"], memory_bytes=memory_bytes)
    found = alignment(spanned.matrix, spanned.residual_norms, len(probes))
    summary = {
        "candidate": context.hints["candidate"],
        "probes": len(probes),
        "window_tokens": length,
        **vars(found),
        "method": spanned.computation.method,
        "relative_error": spanned.relative_error,
        "flops": cost.train_flops(cost.shape_of(model), both, epochs=1),
        "seconds": meter.seconds(),
    }
    context.write("overlap/summary", [summary])


def _texts(context: BuildContext) -> Mapping[str, Sequence[str]]:
    """The pretraining texts by kind."""
    if "pretext" not in context.upstream:
        return {_FILE: pretraining_text.read(context.hints["text"])}
    table = context.table("pretext", "texts")
    return {str(kind): texts.tolist() for kind, texts in table.groupby("kind")["text"]}


STAGE = Stage(
    name="overlap",
    version=2,
    tables=("overlap/summary",),
    plan=per_candidate(step),
    build=build,
    mlflow=first_row("summary"),
    in_report=True,
)
