"""The plan of a pipeline, and of the ranking over what its sweep left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lensllm.config.sections import Pipeline
from lensllm.data import sampling, sources
from lensllm.diagnostics.heavy_tails import check_installed
from lensllm.store.artifacts import Ref, Store
from tasks.base import past
from tasks.base.goal import Goal
from tasks.base.model import Model
from tasks.base.plan import Plan, RankingPlan
from tasks.base.step import Cell, Step
from tasks.base.training import split_rows
from tasks.planning import models
from tasks.planning.make import make
from tasks.stages import STAGES, dataset, overlap, ranking, sample


def data_steps(config: Pipeline) -> list[Step]:
    """The data set and its samples, one per repeat: what the target may have to be read from."""
    data = dataset.step(config.data)
    return [data, *(sample.step(config, r, data.ref) for r in range(config.sweep.seeds))]


def check(config: Pipeline, store: Store) -> None:
    """Raise ``LensError`` for what can be known to be wrong before a server or worker starts."""
    ranking.check(config)
    if config.heavy_tails.enabled:
        check_installed()
    overlap.check(config)
    data_steps(config)
    sources.check(config.data)
    _models(config, store)


def make_plan(config: Pipeline, store: Store) -> Plan:
    """The plan of ``config``. Makes the data set first when the target is all of it.

    Raises ``LensError`` as ``check`` does, and for sizes beyond the data where it is at hand.
    """
    ranking.check(config)
    config = models.pinned(config)
    found = _models(config, store)
    data, first_sample, *_ = data_steps(config)
    target = _target(config, store, data, first_sample)
    earlier = find_past(store, data.ref) if config.ranking.prior == "store" else {}
    plan = Plan(STAGES, config, found, store, target, earlier)
    _ = plan.steps  # a stage that cannot be planned raises here
    return plan


def find_past(store: Store, today: Ref) -> dict[str, Ref]:
    """The curves of other data sets than that of ``today``, by data set."""
    versions = {name: STAGES[name].version for name in ("curve", "losses")}
    return past.find(store, today, versions)


def plan_ranking(
    name: str,
    plan: Plan,
    failed: Iterable[tuple[str, str]],
    chosen: Iterable[Cell],
    decisions: Sequence[Ref],
) -> RankingPlan:
    """The ranking of pipeline ``name`` over those ``chosen`` cells that are in the store.

    ``failed`` are label and reason of what it has to do without, ``decisions`` a sweep policy's.
    """
    wanted = set(chosen)
    given: dict[str, Mapping[Any, Ref]] = {
        "past": plan.past,
        "decision": dict(enumerate(decisions)),
    }
    for stage in (s for s in STAGES.values() if not s.plan.of_ranking and s.name != "decision"):
        present = plan.present(stage.name)
        if stage.plan.per == "cell":
            present = {label: ref for label, ref in present.items() if label in wanted}
        given[stage.name] = present
    goal = Goal.of(name, plan.config, plan.target)
    return RankingPlan(STAGES, goal, given, sweep=plan, failed=failed)


def _models(config: Pipeline, store: Store) -> list[Model]:
    return [models.resolve(config, candidate, store) for candidate in config.candidates]


def _target(config: Pipeline, store: Store, data: Step, first_sample: Step) -> int:
    """The target as a number of examples, checked against the data where that is at hand."""
    known = config.sweep.target
    if known == "full":
        for step in (data, first_sample):
            make(store.root, step.recipe, step.hints)
    if store.has(data.ref) and store.has(first_sample.ref):
        kept = len(split_rows(store, first_sample.ref, "train"))
        available = kept + dataset.unkept(store, data.ref)
        known = available if known == "full" else known
        sampling.check_sizes(available, [known])
        trained = [known] if config.sweep.measure_target else []
        sampling.check_sizes(available, [*config.sweep.sizes, *trained], kept)
    assert known != "full"
    return known
