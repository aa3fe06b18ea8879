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
from lensllm.store.artifacts import Ref, Store
from tasks.base.model import Model
from tasks.base.step import BuildContext
from tasks.base.trunk import Trunk

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from lensllm.models.batch import Example
    from lensllm.training.evaluate import EvaluationResult
    from lensllm.training.loop import TrainingResult
    from lensllm.training.memory import BatchSizeTuner
    from lensllm.training.optimiser import Optimiser
    from lensllm.training.ranks import Ranks
    from lensllm.training.resume import Checkpoints

SPLITS = ("train", "validation", "test")
FITS = ".fits"  # folder of the store: what fits where, by candidate; hints, not artefacts


@dataclass(frozen=True)
class Trained:
    """A fine-tuned model and what it was trained and is tested on."""

    model: Any
    result: TrainingResult | None  # None for the pretrained model, D = 0
    diverged: bool
    settings: FineTune  # with the learning rate that was chosen for the candidate
    device: torch.device
    dtype: torch.dtype
    precision: str
    attention: str
    tokens: pd.DataFrame  # tokens/examples
    rows: dict[str, list[int]]  # of ``tokens``, by split
    examples: dict[str, list[Example]]  # by split
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


def training_hints(model: Model, engine: Engine, longest: int) -> dict[str, Any]:
    """Hints of a step that trains ``model`` on examples of at most ``longest`` tokens."""
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
    context: BuildContext, params: Mapping[str, Any], upstream: Mapping[str, Ref], ranks: Ranks
) -> Trained:
    """Fine-tune with the parameters of a cell; the same bits at every call on one CPU."""
    from lensllm.core import seeds
    from lensllm.data.tokens import select
    from lensllm.models import load
    from lensllm.models.prepare import prepare
    from lensllm.training import memory, resume
    from lensllm.training.loop import Diverged
    from lensllm.training.optimiser import Optimiser
    from lensllm.training.ranks import shard

    store, hints = context.store, context.hints
    settings = cell_settings(store, params, upstream)
    device = load.choose_device(hints["device"])
    tuner = memory.BatchSizeTuner(
        store.root
        / FITS
        / f"{hints['fits']}-{memory.device_name(device, hints['memory_gib'])}.json"
    )
    tokens = store.table(upstream["tokens"], "examples")
    rows = {split: split_rows(store, upstream["sample"], split) for split in SPLITS}
    rows["train"] = rows["train"][: params["size"]]
    examples = {split: select(tokens, chosen) for split, chosen in rows.items()}
    folder, seed = Path(hints["model"]), seeds.integer(params["seed"], "cell", params["repeat"])
    ready = prepare(folder, settings, seeds.integer(seed, "adapters"), device)
    used = (*examples["train"], *examples["test"])
    largest = max(max((*e.prompt, *e.completion)) for e in used)
    load.check_vocabulary(ready.model, largest, folder)
    with memory.explain_out_of_memory(ready.model, examples["train"] or examples["test"], device):
        model = shard(ready.model, ranks, device)
    result, before, diverged = None, 0.0, False
    if examples["train"]:
        checkpoints = resume.Checkpoints(
            store.partial(context.ref),
            60 * hints["checkpoint_minutes"],
            {**versions(), "device": device.type, "dtype": str(ready.dtype)},
            ranks,
        )
        before = checkpoints.seconds_before
        try:
            with memory.explain_out_of_memory(model, examples["train"], device):
                optimiser = Optimiser(
                    model, settings, device=device, dtype=ready.dtype, tuner=tuner, ranks=ranks
                )
                keep_all = hints.get("keep_trunks", False)
                trunk = Trunk(store, settings, params, upstream, ranks, keep_all=keep_all)
                result = _train(optimiser, examples, params, trunk, seed, checkpoints)
        except Diverged as error:
            if not params.get("trial"):
                raise
            result, diverged = error.result, True
    return Trained(
        model, result, diverged, settings, device, ready.dtype, ready.precision, ready.attention,
        tokens, rows, examples, tuner, ranks, before,
    )  # fmt: skip


def _train(
    optimiser: Optimiser,
    examples: Mapping[str, list[Example]],
    params: Mapping[str, Any],
    trunk: Trunk,
    seed: int,
    checkpoints: Checkpoints,
) -> TrainingResult:
    """Train from the pretrained model, or continue the candidate's trunk and cool down."""
    from lensllm.training.loop import train_epochs
    from lensllm.training.schedule import trunk_steps
    from lensllm.training.trunk import train_branch

    train, validation = examples["train"], examples["validation"]
    if "schedule" not in params:
        return train_epochs(optimiser, train, validation, seed, checkpoints)
    is_trial = "trial" in params  # of a learning rate, chosen by the validation loss
    leaves = trunk_steps(len(train), optimiser.settings.batch_size)
    return train_branch(
        optimiser,
        train,
        validation if is_trial else [],
        seed=seed,
        start=trunk.latest(leaves),
        keep=trunk.keep,
        checkpoints=checkpoints,
    )


def remove_trunk(store: Store, cell: Ref) -> None:
    """Remove the states of the trunk that ``cell`` is a branch of, if it is one."""
    from lensllm.training.ranks import ALONE

    manifest = store.manifest(cell)
    params, upstream = manifest["params"], {r: Ref(*ref) for r, ref in manifest["upstream"].items()}
    if "schedule" in params:
        Trunk(store, cell_settings(store, params, upstream), params, upstream, ALONE).remove()


def cell_settings(store: Store, params: Mapping[str, Any], upstream: Mapping[str, Ref]) -> FineTune:
    """The fine-tuning settings of a cell, with the learning rate chosen for its candidate."""
    settings = FineTune.model_validate(params["recipe"])
    if "rate" not in upstream:
        return settings
    return settings.with_learning_rate(chosen_rate(store, upstream["rate"]))


def chosen_rate(store: Store, rate: Ref) -> float:
    """The learning rate that the artefact ``rate`` chose."""
    table = store.table(rate, "rates")
    return float(table.loc[table["chosen"], "learning_rate"].iloc[0])


def split_rows(store: Store, sample: Ref, split: str) -> list[int]:
    """(n,) indices into the data set of one split, in subset order."""
    table = store.table(sample, "roles")
    chosen = table[table["role"] == split].sort_values("rank")
    return [int(row) for row in chosen["row"]]
