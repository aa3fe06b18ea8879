"""delta: how far the weights of a chosen cell moved, kept until its curvature is measured.

Key: the cell. File: ``weights.safetensors``, fine-tuned − pretrained. Whoever trains the cell makes
it in passing; for a cell trained before anybody asked, or whose weights are gone, it is trained
again. ``curvature`` removes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lensllm.store.artifacts import Recipe, Ref, Store
from tasks.base import spread, training
from tasks.base.stage import Step, Work

VERSION = 1
FILE = "weights.safetensors"


def step(cell: Step) -> Step:
    """Of the step of a cell."""
    return Step(
        cell.label.replace("finetune", "delta", 1),
        _recipe(cell.ref),
        cell.hints,
        timeout_seconds=cell.timeout_seconds,
        weight=cell.weight,
    )


def build(work: Work) -> None:
    spread.run(work, train_again)


def train_again(work: Work, ranks: Any) -> None:
    """Train the cell and keep what it moved; one process has all of its weights."""
    cell = work.store.manifest(work.upstream["cell"])
    upstream = {role: Ref(*ref) for role, ref in cell["upstream"].items()}
    trained = training.train(work, cell["params"], upstream, ranks)
    _save(work.folder, trained.model, work.hints)


def keep(store: Store, cell: Ref, model: Any, hints: Mapping[str, Any]) -> None:
    """Keep what training has just changed in ``model``."""
    store.make(_recipe(cell), lambda folder: _save(folder, model, hints))


def _recipe(cell: Ref) -> Recipe:
    return Recipe("delta", VERSION, {}, {"cell": cell})


def _save(folder: Path, model: Any, hints: Mapping[str, Any]) -> None:
    from lensllm.models import delta, load

    delta.save(model, load.load_model(Path(hints["model"])), folder / FILE)
