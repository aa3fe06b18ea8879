"""The artefacts of a pipeline, of a ranking: graphs that are walked stage by stage.

A key is made of parameters and other keys, never of contents, so a whole sweep has its names before
anything is computed. A stage is planned when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

from lensllm.config.sections import Pipeline
from lensllm.predictors import PREDICTORS, parts
from lensllm.store.artifacts import Ref, Store
from tasks.base.goal import Goal
from tasks.base.model import Model
from tasks.base.stage import Planner, Stage
from tasks.base.step import Cell, Label, Step, Trial, roles

Steps = dict[Label, Step]


class Plan:
    """The steps of a pipeline up to its ranking, by stage and label."""

    def __init__(
        self,
        stages: Mapping[str, Stage],
        config: Pipeline,
        models: Sequence[Model],
        store: Store,
        target: int,
        past: Mapping[str, Ref],
    ) -> None:
        self.stages = stages
        self.config = config
        self.models = tuple(models)
        self.store = store
        self.target = target
        self.past = past  # curves of other data sets; empty when switched off
        self._planned: dict[str, Steps] = {}

    def __getitem__(self, stage: str) -> Steps:
        """The steps of ``stage``."""
        if stage not in self._planned:
            self._planned[stage] = dict(self.stages[stage].plan.steps(self))
        return self._planned[stage]

    def without(self, *stages: str) -> Plan:
        """The same plan, but for the steps of ``stages``."""
        plan = Plan(self.stages, self.config, self.models, self.store, self.target, self.past)
        plan._planned = dict.fromkeys(stages, cast(Steps, {}))
        return plan

    @property
    def repeats(self) -> range:
        return range(self.config.sweep.seeds)

    @property
    def observed(self) -> tuple[int, ...]:
        """The sizes that curves are fitted to: neither D = 0 nor the measured target."""
        return self.config.sweep.sizes

    @cached_property
    def heaviest_first(self) -> list[Model]:
        return sorted(self.models, key=lambda model: -model.work)

    @cached_property
    def by_name(self) -> dict[str, Model]:
        return {model.name: model for model in self.models}

    @cached_property
    def grid(self) -> list[Cell]:
        """Every cell a policy may ask for, smallest first: a cut-short sweep is then useful."""
        sweep = self.config.sweep
        sizes = {*sweep.sizes, *([0] if sweep.zero_shot else [])}
        sizes |= {self.target} if sweep.measure_target else set()
        return [
            Cell(model.name, size, repeat)
            for size in sorted(sizes)
            for model in self.heaviest_first
            for repeat in self.repeats
        ]

    @cached_property
    def cells(self) -> dict[Cell, Step]:
        """The steps of the cells."""
        return {label: s for label, s in self["finetune"].items() if isinstance(label, Cell)}

    def training_inputs(self, model: Model, repeat: int = 0) -> dict[str, Ref]:
        """The artefacts that a model and its examples come from, by upstream role."""
        tokens, sample = self["tokens"][model.name].ref, self["sample"][repeat].ref
        return {"tokens": tokens, "sample": sample, **model.upstream}

    def trials(self, candidate: str) -> dict[float, Step]:
        """The steps that choose the learning rate of ``candidate``, by rate."""
        return {
            label.learning_rate: step
            for label, step in self["finetune"].items()
            if isinstance(label, Trial) and label.candidate == candidate
        }

    @property
    def steps(self) -> list[Step]:
        """Everything that a run makes at most before its ranking, upstream first."""
        return [*self.preparation, *_unique(self._walk(of_cells=True))]

    @property
    def preparation(self) -> list[Step]:
        """The steps that no sweep policy decides on, upstream first."""
        return _unique(self._walk(of_cells=False))

    def _walk(self, *, of_cells: bool) -> Iterable[Step]:
        for name, stage in self.stages.items():
            if not stage.plan.of_ranking:
                for label, step in self[name].items():
                    if isinstance(label, Cell) is of_cells:
                        yield step

    def with_dependencies(self, steps: Iterable[Step]) -> list[Step]:
        """``steps`` and what of the preparation they are made of, upstream first."""
        wanted, found = {step.ref for step in steps}, []
        for step in reversed(self.preparation):
            if step.ref in wanted:
                wanted |= set(step.recipe.upstream.values())
                found.append(step)
        return found[::-1]

    def present(self, stage: str) -> dict[Label, Ref]:
        """The artefacts of ``stage`` that are in the store."""
        return {label: s.ref for label, s in self[stage].items() if self.store.has(s.ref)}

    @property
    def predictor_inputs(self) -> dict[str, Ref]:
        """The artefacts that predictors read besides the cells, by upstream role."""
        kinds = ("kernel", "heavy_tails")
        refs = {kind: {label: s.ref for label, s in self[kind].items()} for kind in kinds}
        return {
            **roles("kernel", refs["kernel"]),
            **roles("heavy_tails", refs["heavy_tails"]),
            **roles("past", self.past),
        }


class RankingPlan:
    """The steps from curves to report, over the artefacts that a sweep or a replay left."""

    def __init__(
        self,
        stages: Mapping[str, Stage],
        goal: Goal,
        given: Mapping[str, Mapping[Any, Ref]],
        *,
        sweep: Plan | None = None,
        failed: Iterable[tuple[str, str]] = (),
        first: Sequence[Step] = (),
    ) -> None:
        self.stages = stages
        self.goal = goal
        self.given = given  # artefacts by stage and label; ``curve`` too in a replay
        self.sweep = sweep  # None in a replay
        self.failed = tuple(failed)  # label and reason of what it has to do without
        self._first = tuple(first)  # steps that are to be made before
        self._planned: dict[str, Steps] = {}

    def __getitem__(self, stage: str) -> Steps:
        """The steps of ``stage``, which is one of the ranking's."""
        if stage not in self._planned:
            self._planned[stage] = dict(self.stages[stage].plan.steps(self))
        return self._planned[stage]

    @property
    def predictors(self) -> list[str]:
        """The predictors that answer for themselves: no mixtures."""
        return [name for name in PREDICTORS if parts(name) == (name,)]

    def refs(self, *stages: str) -> dict[str, Ref]:
        """The artefacts of ``stages``, given or planned, by upstream role."""
        found: dict[str, Ref] = {}
        for name in stages:
            if name in self.given:
                found |= roles(name, self.given[name])
            elif name in self.stages and self.stages[name].plan.of_ranking:
                found |= roles(name, {label: step.ref for label, step in self[name].items()})
        return found

    def ref(self, stage: str) -> Ref:
        """The only artefact of ``stage``."""
        return self.refs(stage)[stage]

    @property
    def decisions(self) -> dict[str, Ref]:
        """A policy's decisions in the sweep, or its play on a replayed table; none without one."""
        return self.refs("decision", "simulation")

    @property
    def steps(self) -> list[Step]:
        """Everything that is to be made, upstream first."""
        own = [name for name, stage in self.stages.items() if stage.plan.of_ranking]
        return [*self._first, *_unique(s for name in own for s in self[name].values())]


def _unique(steps: Iterable[Step]) -> list[Step]:
    return list({step.ref: step for step in steps}.values())


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
