"""Parts that all flows share: observers and workers of a run, its ranking and report at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from prefect.context import TagsContext
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from threadpoolctl import threadpool_limits

from flows.running.journal import Journal
from flows.running.slots import slots_of, workers_for
from flows.running.terminal import Terminal
from flows.running.ui_artifacts import ProgressArtifact, show_result
from flows.server.runs import refuse_stored_results
from lensllm.config.sections import Engine, Tracking
from lensllm.report.reading import publish, read_report
from lensllm.report.result import Result
from lensllm.store.artifacts import Ref, Store
from lensllm.workers.local import Workers
from lensllm.workers.ray_workers import RayWorkers
from tasks.base.plan import RankingPlan
from tasks.execution.execute import Observer, Run, run_steps
from tasks.execution.projection import MlflowProjection

refuse_stored_results()  # in every process that runs a flow, before it begins

# The observers of a run in this process, e.g. the terminal. No parameter of flows, which are text.
observers: ContextVar[Sequence[Observer]] = ContextVar("observers", default=())


def task_runner(slots: int) -> TaskRunner[PrefectFuture[Any]]:
    """Threads for a flow's tasks, as many as slots: a task that the pages show as running runs."""
    return cast(TaskRunner[PrefectFuture[Any]], ThreadPoolTaskRunner(max_workers=slots))


@dataclass(frozen=True)
class Outcome:
    """The result of a run."""

    result: Result
    folder: Path  # of the report and its figure, the same for every run of the pipeline


@contextmanager
def running(
    name: str,
    tracking: Tracking,
    settings: Mapping[str, Any],
    engine: Engine,
    store: Store,
    shared: Workers | RayWorkers | None = None,
) -> Iterator[tuple[Run, MlflowProjection]]:
    """A run with its observers and workers, ``shared`` ones or its own; and its part in MLflow."""
    slots = slots_of(engine)[0]
    with (
        threadpool_limits(1),  # of this process: its matrices are small, more threads only spin
        TagsContext(current_tags=frozenset()),  # the process's tags are the flow run's alone
        MlflowProjection(name, tracking, settings, store) as mlflow,
        Journal(store, name, slots) as journal,
        # inside: stopped first when the run is interrupted
        nullcontext(shared) if shared else workers_of(engine, store) as workers,
    ):
        yield (
            Run(store, workers, (*observers.get(), ProgressArtifact(slots), journal, mlflow)),
            mlflow,
        )


@contextmanager
def workers_of(engine: Engine, store: Store) -> Iterator[Workers | RayWorkers]:
    """The engine's workers; killed if the block is interrupted."""
    workers = workers_for(engine, store)
    try:
        yield workers
    except BaseException:
        workers.close(kill=True)
        raise
    workers.close()


def print_line(text: str) -> None:
    """Print a line that stays in the terminal, if one observes the run."""
    for observer in observers.get():
        if isinstance(observer, Terminal):
            observer.print(text)


def finish(
    run: Run,
    ranking: RankingPlan,
    earlier: Mapping[Ref, PrefectFuture[Any]],
    mlflow: MlflowProjection,
) -> Outcome:
    """Make the ranking and its report, and show them. Raises ``LensError`` if a step fails."""
    tolerated = len(run.failures)
    run_steps(run, ranking.steps, earlier)
    run.stop_on_failure(after=tolerated)
    report = ranking.ref("report")
    folder = publish(run.store, ranking.goal.name, report, ranking.ref("ranking"))
    result = read_report(run.store, report)
    mlflow.log_ranking(
        result.ranking, result.scores, [folder / "curves.png", folder / "report.html"]
    )
    show_result(run.store, result, folder, mlflow.page)
    return Outcome(result, folder)
