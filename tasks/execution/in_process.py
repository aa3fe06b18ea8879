"""A pipeline in this process, one artefact after the other: no server, no workers, no MLflow."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from lensllm.config.sections import Pipeline
from lensllm.core.errors import LensError
from lensllm.store.artifacts import Ref, Store
from tasks.base.plan import Plan, RankingPlan
from tasks.base.step import Step
from tasks.planning.make import make
from tasks.planning.plan import check, make_plan, plan_ranking
from tasks.planning.rounds import Sweep, sweep

log = logging.getLogger("lensllm.run")


class Attempt:
    """The artefacts that a run failed to make, and those it skipped because of them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.failures: dict[Ref, tuple[str, str]] = {}  # label and reason, in order of failing
        self.skipped: set[Ref] = set()

    def is_lost(self, ref: Ref) -> bool:
        """Return whether the run will not make ``ref`` any more."""
        return ref in self.failures or ref in self.skipped

    def stop_on_failure(self, after: int = 0) -> None:
        """Raise the first failure beyond ``after`` tolerated ones as ``LensError``."""
        for label, reason in list(self.failures.values())[after:]:
            raise LensError(f"{label}: {reason}")

    def plan_ranking(self, name: str, plan: Plan, played: Sweep) -> RankingPlan:
        """Plan the ranking of the sweep. Raises the first failure if no cell of a curve is done."""
        observed = [plan.cells[cell].ref for cell in played.cells if cell.size in plan.observed]
        if not any(map(self.store.has, observed)):
            self.stop_on_failure()
        failures = list(self.failures.values())
        return plan_ranking(name, plan, failures, played.cells, played.decisions)


def run_in_process(name: str, config: Pipeline, store: Store) -> RankingPlan:
    """Make every artefact of a pipeline that the store does not have, down to the report.

    The report names cells that failed, as in a run of the command line, and the ranking is made
    without them. Models are trained with as many threads as torch takes by default.

    Raises ``LensError`` for a mistake in the configuration, and the first failure when no cell of
    the curves is finished or when the ranking itself cannot be made.
    """
    check(config, store)
    plan, attempt = make_plan(config, store), Attempt(store)
    _make(attempt, plan.preparation)
    while True:
        played = sweep(plan, attempt.is_lost)
        if not _make(attempt, played.steps):
            break
    ranking = attempt.plan_ranking(name, plan, played)
    tolerated = len(attempt.failures)
    _make(attempt, ranking.steps)
    attempt.stop_on_failure(after=tolerated)
    return ranking


def _make(attempt: Attempt, steps: Iterable[Step]) -> bool:
    """Make ``steps``, upstream first; return whether any was missing."""
    store = attempt.store
    missing = [step for step in steps if not attempt.is_lost(step.ref) and not store.has(step.ref)]
    for step in missing:
        if any(map(attempt.is_lost, step.recipe.upstream.values())):
            attempt.skipped.add(step.ref)
            continue
        try:
            make(store.root, step.recipe, step.hints)
            log.info("%s: made", step.label)
        except LensError as error:
            attempt.failures[step.ref] = (step.label, str(error))
            log.warning("%s: %s", step.label, error)
    return bool(missing)
