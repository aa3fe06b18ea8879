"""ablate: the main flow at every point of a grid of settings, then the points side by side.

Each point is a flow run of its own. What points share is made once and shown as Cached, and a point
that fails leaves the others alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.rank import play, settings
from flows.running.ablated import Ablated, by_setting, rows
from flows.running.ending import (
    observers,
    print_line,
    running,
    task_runner,
    workers_of,
)
from flows.running.slots import slots_of
from flows.running.ui_artifacts import plain
from lensllm.config import grid
from lensllm.config.grid import Point
from lensllm.config.sections import Curvature, Engine, Pipeline, Tracking, public
from lensllm.core.errors import LensError
from lensllm.selection.ablation import verdict
from lensllm.store.artifacts import Ref, Store
from lensllm.workers.local import Workers
from lensllm.workers.ray_workers import RayWorkers
from tasks.base.plan import Plan
from tasks.execution.execute import run_steps
from tasks.planning.plan import data_steps, make_plan
from tasks.stages import ablation
from tasks.stages.ablation import PointResult

# Stages of a point that are compared; its other diagnostics belong to the pipeline's own run.
_COMPARED = ("curve", "law", "prediction", "ranking")


@flow(name="ablate", flow_run_name="{pipeline}", persist_result=False)
def ablate(
    pipeline: str, file: str, artifacts: str, over: list[str], overrides: list[str] | None = None
) -> Ablated:
    """Rank the candidates of ``pipeline`` at every point of the grid ``over``."""
    points = grid.read(Path(file), pipeline, over, overrides or [])
    store = Store(Path(artifacts))
    store.prepare()
    lost: dict[Ref, tuple[str, str]] = {}  # what failed at one point is not results at the next

    @flow(
        name="point",
        flow_run_name="{label}",
        persist_result=False,
        task_runner=task_runner(slots_of(points[0].config.engine)[0]),
    )
    def point(place: int, label: str) -> PointResult:
        return _run_point(pipeline, points[place], store, workers, lost, whole=place == 0)

    results = []
    with store.using(f"an ablation of {pipeline}"):
        _announce(points, store)
        with workers_of(points[0].config.engine, store) as workers:
            for place, here in enumerate(points):
                print_line(f"point {place + 1} of {len(points)}: {here.label}")
                try:
                    results.append(point(place, here.label))
                except LensError as error:
                    print_line(f"this point failed: {error}")
                    results.append(PointResult(here.settings, None, str(error)))
        return _conclude(pipeline, points[0].config, results, store)


def _run_point(
    name: str,
    point: Point,
    store: Store,
    workers: Workers | RayWorkers,
    lost: dict[Ref, tuple[str, str]],
    *,
    whole: bool,
) -> PointResult:
    """Rank the candidates at one point; ``whole`` with the diagnostics that no ranking reads."""
    config, experiment = point.config, f"{name}-ablation"
    watched = running(experiment, config.tracking, settings(config), config.engine, store, workers)
    with watched as (run, mlflow):
        try:
            futures = run_steps(run, data_steps(config), {})
            run.stop_on_failure()
            plan = _plan(config, store, whole=whole)
            run.failures |= {step.ref: lost[step.ref] for step in plan.steps if step.ref in lost}
            ranking = play(run, name, plan, futures)
            tolerated = len(run.failures)
            compared = [s for s in ranking.steps if s.stage in _COMPARED]
            run_steps(run, compared, futures)
            run.stop_on_failure(after=tolerated)
            rows = store.table(ranking.ref("ranking"), "predictions")
            chosen = rows[rows["predictor"] == config.ranking.predictor]
            mlflow.log_ranking(chosen, store.table(ranking.ref("ranking"), "scores"))
            return PointResult(point.settings, ranking, lacking=tuple(run.failures.values()))
        finally:
            lost |= run.failures


def _plan(config: Pipeline, store: Store, *, whole: bool) -> Plan:
    """``whole``, or without what is measured for the report alone; cells are the same in both."""
    if whole:
        return make_plan(config, store)
    bare = config.model_copy(update={"curvature": Curvature()})
    return make_plan(bare, store).without("probe", "overlap")


def _conclude(name: str, config: Pipeline, results: Sequence[PointResult], store: Store) -> Ablated:
    """Compare the points; ``config`` is the first's. Raises ``LensError`` when all have failed."""
    if not any(point.ranking for point in results):
        raise LensError(
            f"every point failed; {grid.label(results[0].settings)}: {results[0].failed}"
        )
    step = ablation.step(name, results, public(config))
    with running(f"{name}-ablation", Tracking(enabled=False), {}, Engine(slots=1), store) as (
        run,
        _,
    ):
        run_steps(run, [step], {})
        run.stop_on_failure()
    failures = []
    for point in results:
        where = grid.label(point.settings)
        failures += [(f"{where}: {label}", reason) for label, reason in point.lacking]
        failures += [(where, point.failed)] if point.failed else []
    folder = _publish(store, step.ref, name)
    _show_in_ui(store.table(step.ref, "points"), folder)
    return Ablated(name, step.ref, tuple(failures), folder)


def _publish(store: Store, ref: Ref, name: str) -> Path:
    """Copy the page to ``reports/<name>-ablation/``, where people find it again."""
    folder = store.root / "reports" / f"{name}-ablation"
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("ablation.html", "ablation.png"):
        shutil.copyfile(store.path(ref) / file, folder / file)
    by_setting(store.table(ref, "points")).to_csv(folder / "points.csv", index=False)
    return folder


def _show_in_ui(points: pd.DataFrame, folder: Path) -> None:
    sentence = verdict(points)
    create_table_artifact(key="ablation", table=rows(points), description=plain(sentence))
    create_markdown_artifact(
        key="verdict", markdown=f"{plain(sentence)}\n\nPage: `{folder / 'ablation.html'}`"
    )


def _announce(points: Sequence[Point], store: Store) -> None:
    """Give the terminal all points' steps at once, for its estimate of the time left."""
    plans = (_plan(point.config, store, whole=place == 0) for place, point in enumerate(points))
    steps = {step.ref: step for plan in plans for step in plan.steps}
    for observer in observers.get():
        observer.planned(list(steps.values()))
