"""What a stage is: a module of this package with a ``VERSION``, a ``build`` and a ``step``.

``step(...)`` says what an artefact is made of, ``build(...)`` makes it from other artefacts. A
build runs in a worker process, so the modules import torch inside ``build``: the command line,
which only names artefacts, starts without it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from lensllm.store.artifacts import Recipe, Ref, Store


@dataclass(frozen=True)
class Step:
    """One artefact to be made, and how the UI calls it."""

    label: str
    recipe: Recipe
    hints: Mapping[str, Any] = field(default_factory=dict)
    """What the build needs but the result does not depend on: where a model lies, which device."""
    timeout_seconds: float | None = None
    weight: float = 1.0
    """Work relative to other steps of the stage, to tell how long is left."""
    in_worker: bool = True
    """Small tables are made in the command's own process."""

    @property
    def ref(self) -> Ref:
        return self.recipe.ref

    @property
    def stage(self) -> str:
        return self.recipe.stage


@dataclass(frozen=True)
class Work:
    """What a build is given: the store it reads, what to make, and the folder to fill."""

    store: Store
    params: Mapping[str, Any]
    upstream: Mapping[str, Ref]
    hints: Mapping[str, Any]
    folder: Path
    ref: Ref


def module(stage: str) -> ModuleType:
    """The module that is the stage."""
    return importlib.import_module(f"tasks.stages.{stage}")


def remark(store: Store, step: Step) -> str:
    """What a stage says of a finished artefact for people, "" for most."""
    say = getattr(module(step.stage), "remark", None)
    return say(store, step.ref) if say else ""


def make(root: Path, recipe: Recipe, hints: Mapping[str, Any]) -> bool:
    """Make an artefact in this process; True when it was there already."""
    store, stage = Store(root), module(recipe.stage)

    def build(folder: Path) -> None:
        stage.build(Work(store, recipe.params, recipe.upstream, hints, folder, recipe.ref))

    found = store.make(recipe, build)
    for role in getattr(stage, "SPENT", ()):
        store.remove(recipe.upstream[role])
    return found
