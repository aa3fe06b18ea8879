"""A stage: how a kind of artefact is planned, made, and shown.

A stage is a module of ``tasks/stages/`` with a function that plans one artefact, a function that
builds it, and ``STAGE``, which says all else. Planning names artefacts and must not import torch; a
build runs in a worker process and imports what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lensllm.store.artifacts import Recipe, Ref, Store
from tasks.base.step import BuildContext, Label, Step

if TYPE_CHECKING:
    from lensllm.training.throughput import Throughput


@dataclass(frozen=True)
class Planner:
    """The number of artefacts that a stage has, and their steps by label."""

    per: str  # pipeline, repeat, candidate, cell, ranking, predictor; or the flow that plans it
    steps: Callable[[Any], Iterable[tuple[Label, Step]]] = lambda plan: ()
    of_ranking: bool = False  # planned once the sweep is over, over what it left in the store


@dataclass(frozen=True, kw_only=True)
class Stage:
    """All that is particular to a kind of artefact."""

    name: str
    version: int  # raised when the result changes for the same recipe
    tables: tuple[str, ...] = ()  # in lensllm/store/schemas.py
    plan: Planner
    build: Callable[[BuildContext], None]
    in_worker: bool = True
    discards: tuple[str, ...] = ()  # upstream roles that are removed once this is made
    note: Callable[[Store, Ref], str] | None = None  # a line for the terminal and Prefect's page
    mlflow: Callable[[Store, Ref], dict[str, Any]] | None = None  # one flat row
    flops: Callable[[Store, Ref], float] | None = None  # what it took, in the ranking's cost
    expected_flops: Callable[[Any, Any, Throughput], float] | None = None  # for `lensllm plan`
    in_report: bool = False  # the report reads it
    report_title: str = ""  # the report shows its first table under this title

    def step(
        self,
        label: str,
        params: Mapping[str, Any] | None = None,
        upstream: Mapping[str, Ref] | None = None,
        hints: Mapping[str, Any] | None = None,
        *,
        timeout_seconds: float | None = None,
        weight: float = 1.0,
        after: tuple[Ref, ...] = (),
    ) -> Step:
        """An artefact of this stage."""
        recipe = Recipe(self.name, self.version, params or {}, upstream or {})
        return Step(label, recipe, hints or {}, timeout_seconds, weight, self.in_worker, after)
