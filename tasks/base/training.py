"""Training a cell: what the stages ``finetune`` and ``delta`` have in common."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensllm.config.sections import Engine, FineTune
from lensllm.core.meter import versions
from lensllm.store.artifacts import Ref
from tasks.base.models import Model
from tasks.base.stage import Work
from tasks.stages import rate, sample

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from lensllm.models.batch import Example
    from lensllm.training.evaluate import EvaluationResult
    from lensllm.training.loop import TrainingResult
    from lensllm.training.memory import BatchSizeTuner
    from lensllm.training.ranks import Ranks

ROLES = ("train", "validation", "test")
FITS = ".fits"  # folder of the store: what fits where, by candidate; hints, not artefacts


@dataclass(frozen=True)
class Trained:
    """A fine-tuned model and what it was trained and is tested on."""

    model: Any
    result: TrainingResult | None  # None for the pretrained model, D = 0
    diverged: bool
    recipe: FineTune
    device: torch.device
    dtype: torch.dtype
    precision: str
    attention: str
    tokens: pd.DataFrame  # tokens/examples
    rows: dict[str, list[int]]  # of ``tokens``, by role
    examples: dict[str, list[Example]]  # by role
    tuner: BatchSizeTuner
    ranks: Ranks
    seconds_before: float  # of attempts that were interrupted

    def evaluate(self, examples: list[Example]) -> EvaluationResult:
        """The loss of ``examples`` under the model."""
        from lensllm.training.evaluate import evaluate

        return evaluate(
            self.model,
            examples,
            device=self.device,
            dtype=self.dtype,
            tuner=self.tuner,
            ranks=self.ranks,
        )


def hints(model: Model, engine: Engine, longest: int) -> dict[str, Any]:
    """What training needs and its result does not depend on; ``longest`` example in tokens."""
    identity = {
        "model": dict(model.params),
        "upstream": {role: ref.key for role, ref in model.upstream.items()},
        "method": model.settings.method,
        "longest": longest,
        "processes": engine.processes,
    }
    text = json.dumps(identity, sort_keys=True)
    return {
        "candidate": model.name,
        "model": str(model.folder),
        "device": engine.device,
        "memory_gib": engine.memory_gib,
        "processes": engine.processes,
        "checkpoint_minutes": engine.checkpoint_minutes,
        "fits": hashlib.sha256(text.encode()).hexdigest()[:16],
    }


def train(
    work: Work, params: Mapping[str, Any], upstream: Mapping[str, Ref], ranks: Ranks
) -> Trained:
    """Fine-tune as the recipe of a cell says; the same bits at every call on one CPU."""
    from lensllm.core import seeds
    from lensllm.data.tokens import select
    from lensllm.models import load
    from lensllm.models.prepare import prepare
    from lensllm.training import memory, resume
    from lensllm.training.loop import Diverged, fine_tune
    from lensllm.training.ranks import shard

    store, told = work.store, work.hints
    recipe = recipe_of(work, params, upstream)
    device = load.choose_device(told["device"])
    tuner = memory.BatchSizeTuner(
        store.root / FITS / f"{told['fits']}-{memory.device_name(device, told['memory_gib'])}.json"
    )
    tokens = store.table(upstream["tokens"], "examples")
    rows = {role: sample.rows(store, upstream["sample"], role) for role in ROLES}
    rows["train"] = rows["train"][: params["size"]]
    examples = {role: select(tokens, chosen) for role, chosen in rows.items()}
    folder, seed = Path(told["model"]), seeds.integer(params["seed"], "cell", params["repeat"])
    ready = prepare(folder, recipe, seeds.integer(seed, "adapters"), device)
    seen = (*examples["train"], *examples["test"])
    largest = max(max((*e.prompt, *e.completion)) for e in seen)
    load.check_vocabulary(ready.model, largest, folder)
    with memory.explain_out_of_memory(ready.model, examples["train"] or examples["test"], device):
        model = shard(ready.model, ranks, device)
    result, before, diverged = None, 0.0, False
    if examples["train"]:
        checkpoints = resume.Checkpoints(
            store.partial(work.ref),
            60 * told["checkpoint_minutes"],
            {**versions(), "device": device.type, "dtype": str(ready.dtype)},
            ranks,
        )
        before = checkpoints.seconds_before
        try:
            result = fine_tune(
                model,
                examples["train"],
                examples["validation"],
                recipe,
                seed=seed,
                device=device,
                dtype=ready.dtype,
                tuner=tuner,
                checkpoints=checkpoints,
                ranks=ranks,
            )
        except Diverged as error:
            if not params.get("trial"):
                raise
            # that this learning rate is too high is what was to be found out
            result, diverged = error.result, True
    return Trained(
        model, result, diverged, recipe, device, ready.dtype, ready.precision, ready.attention,
        tokens, rows, examples, tuner, ranks, before,
    )  # fmt: skip


def recipe_of(work: Work, params: Mapping[str, Any], upstream: Mapping[str, Ref]) -> FineTune:
    """The recipe of a cell, with the learning rate that was chosen for its candidate."""
    recipe = FineTune.model_validate(params["recipe"])
    if "rate" not in upstream:
        return recipe
    return recipe.with_learning_rate(rate.chosen(work.store, upstream["rate"]))
