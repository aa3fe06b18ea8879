"""Make an artefact in this process: what a worker is told to do, and what planning needs to see."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lensllm.store.artifacts import Recipe, Store
from tasks.base.step import BuildContext, Step
from tasks.stages import STAGES


def make(root: Path, recipe: Recipe, hints: Mapping[str, Any]) -> bool:
    """Make an artefact of the store at ``root``; True when it was there already."""
    store, stage = Store(root), STAGES[recipe.stage]

    def build(folder: Path) -> None:
        stage.build(BuildContext(store, recipe.params, recipe.upstream, hints, folder, recipe.ref))

    found = store.make(recipe, build)
    for role in stage.discards:
        store.remove(recipe.upstream[role])
    return found


def note(store: Store, step: Step) -> str:
    """A line about a finished artefact for people; "" for most."""
    say = STAGES[step.stage].note
    return say(store, step.ref) if say else ""
