"""What a stage is: how a kind of artefact is planned, made, and shown.

A stage is a module of ``tasks/stages/`` with a function that plans its artefacts, a function that
builds one, and ``STAGE``, which says all else. The planning functions name artefacts and must not
import torch; a build runs in a worker process and imports what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensllm.store import artifacts
from lensllm.store.artifacts import Recipe, Ref, Store

if TYPE_CHECKING:
    import pandas as pd

    from lensllm.training.throughput import Throughput
    from tasks.base.model import Model
    from tasks.base.plan import Cell, Label, Plan, RankingPlan


@dataclass(frozen=True)
class Step:
    """One artefact to be made, with its name for people."""

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
class BuildContext:
    """The store that a build reads, the artefact it makes, and the folder it fills."""

    store: Store
    params: Mapping[str, Any]
    upstream: Mapping[str, Ref]
    hints: Mapping[str, Any]
    folder: Path
    ref: Ref

    def write(self, table: str, rows: pd.DataFrame | list[Any]) -> None:
        """Write ``rows`` as the table of that name in ``lensllm.store.schemas``."""
        artifacts.write_table(self.folder, table, rows)

    def table(self, role: str, table: str, columns: list[str] | None = None) -> pd.DataFrame:
        """``table`` of the artefact in the upstream ``role``; all columns unless named."""
        return self.store.table(self.upstream[role], table, columns)

    def each(self, kind: str) -> dict[str, Ref]:
        """The artefacts of a kind upstream by label: ``gpt2`` for the role ``kernel:gpt2``."""
        return labelled(self.upstream, kind)


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
    expected_flops: Callable[[Plan, Model, Throughput], float] | None = None  # for `lensllm plan`
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
    ) -> Step:
        """An artefact of this stage."""
        recipe = Recipe(self.name, self.version, params or {}, upstream or {})
        return Step(label, recipe, hints or {}, timeout_seconds, weight, self.in_worker)


# --- planners -------------------------------------------------------------------------------------
# Each takes the function that plans one artefact, which returns None where there is none.
def once(step: Callable[[Plan], Step | None]) -> Planner:
    """One artefact per pipeline."""
    return Planner("pipeline", lambda plan: _some([("", step(plan))]))


def per_repeat(step: Callable[[Plan, int], Step | None]) -> Planner:
    """One artefact per repeat of the sweep."""
    return Planner("repeat", lambda plan: _some((r, step(plan, r)) for r in plan.repeats))


def per_candidate(step: Callable[[Plan, Model], Step | None]) -> Planner:
    """One artefact per candidate."""
    return Planner("candidate", lambda plan: _some((m.name, step(plan, m)) for m in plan.models))


def per_cell(step: Callable[[Plan, Cell], Step | None]) -> Planner:
    """One artefact per cell: candidate, size and repeat."""
    return Planner("cell", lambda plan: _some((cell, step(plan, cell)) for cell in plan.grid))


def of_models(stage: str) -> Planner:
    """The artefacts of ``stage`` that make candidates, planned by ``tasks.planning.models``.

    The heaviest candidates come first: their cells are then not what everything waits for.
    """
    return Planner(
        "candidate",
        lambda plan: (
            (m.name, step) for m in plan.heaviest_first for step in m.steps if step.stage == stage
        ),
    )


def per_ranking(step: Callable[[RankingPlan], Step | None]) -> Planner:
    """One artefact per ranking, of a pipeline or of a replayed table."""
    return Planner("ranking", lambda plan: _some([("", step(plan))]), of_ranking=True)


def per_predictor(step: Callable[[RankingPlan, str], Step | None]) -> Planner:
    """One artefact per ranking and predictor that is no mixture of others."""
    return Planner(
        "predictor", lambda plan: _some((n, step(plan, n)) for n in plan.predictors), True
    )


def _some(steps: Iterable[tuple[Label, Step | None]]) -> Iterable[tuple[Label, Step]]:
    return ((label, step) for label, step in steps if step)


# --- upstream roles -------------------------------------------------------------------------------
def roles(kind: str, refs: Mapping[Any, Ref]) -> dict[str, Ref]:
    """Upstream roles of a kind: ``kernel:gpt2`` for the kernel of gpt2, ``curve`` without label."""
    return {f"{kind}:{label}" if label != "" else kind: ref for label, ref in refs.items()}


def labelled(upstream: Mapping[str, Ref], kind: str) -> dict[str, Ref]:
    """The artefacts of a kind by label, in their order."""
    parts = {role: role.partition(":") for role in upstream}
    return {
        label: upstream[role] for role, (name, _, label) in parts.items() if name == kind and label
    }


def roles_of(upstream: Mapping[str, Ref], kind: str) -> list[Ref]:
    """The artefacts of a kind, with a label or without."""
    return [ref for role, ref in upstream.items() if role.partition(":")[0] == kind]


def first_row(table: str) -> Callable[[Store, Ref], dict[str, Any]]:
    """The reader of a table's first row."""

    def read(store: Store, ref: Ref) -> dict[str, Any]:
        return {str(name): value for name, value in store.table(ref, table).iloc[0].items()}

    return read
