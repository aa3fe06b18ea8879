"""rank: the main flow, from candidates and data to a ranking.

Every artefact is a task run; what the store has is shown as Cached. The flow's parameters are plain
text, so that a deployment can hold them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.context import TagsContext
from prefect.task_runners import ThreadPoolTaskRunner

from flows.slots import slots_of
from flows.ui_artifacts import ProgressArtifact, ranking_rows
from lensllm import configfile
from lensllm.config import Pipeline
from lensllm.errors import LensError
from lensllm.ranking import verdict
from lensllm.store import Store
from lensllm.workers import Workers
from tasks.execute import Observer, Run, run_steps
from tasks.plan import Conclusion, Plan, conclude, data_steps, make_plan
from tasks.projection import MlflowProjection

# Who watches the run in this process, e.g. the terminal. Not a parameter: parameters are text.
observers: ContextVar[Sequence[Observer]] = ContextVar("observers", default=())


@dataclass(frozen=True)
class Outcome:
    """What a run ends with."""

    plan: Plan
    conclusion: Conclusion
    failures: tuple[tuple[str, str], ...]  # label and reason
    folder: Path  # the report and its figure, at a name that stays


@flow(name="rank", flow_run_name="{pipeline}", persist_result=False)
def rank(pipeline: str, file: str, artifacts: str, overrides: list[str] | None = None) -> Outcome:
    """Rank the candidates of ``pipeline`` in the configuration ``file``."""
    settings = configfile.load(Path(file), pipeline, overrides or [])
    store = Store(Path(artifacts))
    store.prepare()
    with (
        TagsContext(current_tags=frozenset()),  # the process's tags are the flow run's alone
        MlflowProjection(pipeline, settings, store) as mlflow,
        _workers(settings) as workers,  # inside: stopped first when the run is interrupted
    ):
        watching = (*observers.get(), ProgressArtifact(), mlflow)
        run = Run(store, workers, watching)
        futures = run_steps(run, data_steps(settings), {})
        _stop_on_failure(run)
        plan = make_plan(settings, store)  # knows the data by now: checks the sizes against it
        futures = run_steps(run, plan.steps, futures)
        observed = [step.ref for cell, step in plan.cells.items() if cell.size in plan.observed]
        if not any(store.has(ref) for ref in observed):
            _stop_on_failure(run)
        failures = tuple(run.failures.values())
        conclusion = conclude(pipeline, plan, store, failures)
        run_steps(run, conclusion.steps, futures)
        _stop_on_failure(run, after=len(failures))
        folder = _publish(store, pipeline, conclusion)
        mlflow.conclude(plan, conclusion, folder)
    _show_in_ui(store, settings, plan, conclusion, folder)
    return Outcome(plan, conclusion, failures, folder)


@contextmanager
def _workers(settings: Pipeline) -> Iterator[Workers]:
    workers = Workers(*slots_of(settings.engine))
    try:
        yield workers
    except BaseException:
        workers.close(kill=True)
        raise
    workers.close()


def task_runner(settings: Pipeline) -> ThreadPoolTaskRunner:
    """As many threads as slots: a task that runs in the UI is one that really runs."""
    return ThreadPoolTaskRunner(max_workers=slots_of(settings.engine)[0])


def _stop_on_failure(run: Run, after: int = 0) -> None:
    """Raise the first failure beyond the ``after`` ones that the run can live with."""
    for label, reason in list(run.failures.values())[after:]:
        raise LensError(f"{label}: {reason}")


def _publish(store: Store, pipeline: str, conclusion: Conclusion) -> Path:
    """Copy the report to ``reports/<pipeline>/``, where people find it again."""
    folder = store.root / "reports" / pipeline
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("report.html", "curves.png"):
        shutil.copyfile(store.path(conclusion.report.ref) / name, folder / name)
    table = store.table(conclusion.ranking.ref, "predictions")
    table.to_csv(folder / "predictions.csv", index=False)
    return folder


def _show_in_ui(
    store: Store, settings: Pipeline, plan: Plan, conclusion: Conclusion, folder: Path
) -> None:
    predictions = store.table(conclusion.ranking.ref, "predictions")
    sentence = verdict(
        predictions, settings.ranking.predictor, plan.target, settings.ranking.metric
    )
    create_table_artifact(
        key="ranking",
        table=ranking_rows(predictions, settings.ranking.predictor),
        description=sentence,
    )
    create_markdown_artifact(
        key="verdict", markdown=f"{sentence}\n\nReport: `{folder / 'report.html'}`"
    )
