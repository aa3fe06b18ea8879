"""A pipeline in this process, one artefact after the other: no server, no workers, no MLflow."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from lensllm.config.sections import Pipeline
from lensllm.core.errors import LensError
from lensllm.store.artifacts import Ref, Store
from tasks.base.plan import RankingPlan
from tasks.base.step import Step
from tasks.planning.make import make
from tasks.planning.plan import check, make_plan, plan_ranking
from tasks.planning.rounds import sweep

log = logging.getLogger("lensllm.run")


def run_in_process(name: str, config: Pipeline, store: Store) -> RankingPlan:
    """Make every artefact of a pipeline that the store does not have, down to the report.

    A cell that fails is named in the report, as in a run of the command line, and the ranking is
    made without it. Models are trained with as many threads as torch takes by default.

    Raises ``LensError`` for a mistake in the configuration, and the first failure when no cell of
    the curves is finished or when the ranking itself cannot be made.
    """
    check(config, store)
    plan = make_plan(config, store)
    made = _Made(store)
    made.make(plan.preparation)
    while True:
        rounds = sweep(plan, made.is_lost)
        if not made.make(rounds.steps):
            break
    if not any(
        cell.size in plan.observed and store.has(plan.cells[cell].ref) for cell in rounds.cells
    ):
        made.stop_on_failure()
    reasons = list(made.failures.values())
    ranking = plan_ranking(name, plan, reasons, rounds.cells, rounds.decisions)
    made.make(ranking.steps)
    made.stop_on_failure(after=len(reasons))
    return ranking


class _Made:
    """Steps made one after the other, and those that failed."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.failures: dict[Ref, tuple[str, str]] = {}  # label and reason, in order of failing
        self._skipped: set[Ref] = set()  # made from an artefact that failed

    def is_lost(self, ref: Ref) -> bool:
        """Whether ``ref`` will not be made any more."""
        return ref in self.failures or ref in self._skipped

    def make(self, steps: Iterable[Step]) -> bool:
        """Make ``steps``, upstream first; whether any was missing."""
        missing = [s for s in steps if not self.is_lost(s.ref) and not self.store.has(s.ref)]
        for step in missing:
            if any(self.is_lost(ref) for ref in step.recipe.upstream.values()):
                self._skipped.add(step.ref)
                continue
            try:
                make(self.store.root, step.recipe, step.hints)
                log.info("%s: made", step.label)
            except LensError as error:
                self.failures[step.ref] = (step.label, str(error))
                log.warning("%s: %s", step.label, error)
        return bool(missing)

    def stop_on_failure(self, after: int = 0) -> None:
        """Raise the first failure beyond the ``after`` ones that the ranking does without."""
        for label, reason in list(self.failures.values())[after:]:
            raise LensError(f"{label}: {reason}")
