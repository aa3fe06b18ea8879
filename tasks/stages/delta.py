"""delta: how far the weights of a chosen cell moved, kept until its curvature is measured.

Key: the cell. File: ``weights.safetensors``, fine-tuned − pretrained. Whoever trains the cell makes
it in passing; for a cell trained before anybody asked, or whose weights are gone, it is trained
again. ``curvature`` removes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lensllm.store.artifacts import Ref, Store
from tasks.base import processes
from tasks.base.plan import Plan, per_cell
from tasks.base.stage import Stage
from tasks.base.step import BuildContext, Cell, Step
from tasks.base.training import train

FILE = "weights.safetensors"


def planned(plan: Plan, cell: Cell) -> Step | None:
    """The step of ``cell``; None where its curvature is not asked for, or measured."""
    measured = plan["curvature"].get(cell)
    return step(plan.cells[cell]) if measured and not plan.store.has(measured.ref) else None


def step(cell: Step) -> Step:
    """The step of the weights that ``cell`` changes."""
    return STAGE.step(
        cell.label.replace("finetune", "delta", 1),
        {},
        {"cell": cell.ref},
        cell.hints,
        timeout_seconds=cell.timeout_seconds,
        weight=cell.weight,
    )


def build(context: BuildContext) -> None:
    processes.run(context, train_again)


def train_again(context: BuildContext, ranks: Any) -> None:
    """Train the cell and keep what it moved; one process has all of its weights."""
    cell = context.store.manifest(context.upstream["cell"])
    upstream = {role: Ref(*ref) for role, ref in cell["upstream"].items()}
    trained = train(context, cell["params"], upstream, ranks)
    _save(context.folder, trained.model, context.hints)


def keep(store: Store, cell: Ref, model: Any, hints: Mapping[str, Any]) -> None:
    """Keep what training has just changed in ``model``."""
    recipe = STAGE.step("", {}, {"cell": cell}).recipe
    store.make(recipe, lambda folder: _save(folder, model, hints))


def _save(folder: Path, model: Any, hints: Mapping[str, Any]) -> None:
    from lensllm.models import delta, load

    delta.save(model, load.load_model(Path(hints["model"])), folder / FILE)


STAGE = Stage(name="delta", version=1, plan=per_cell(planned), build=build)
