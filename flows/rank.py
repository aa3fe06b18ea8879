"""rank: the main flow, from candidates and data to a ranking.

Every artefact made is a task run; what the store has is shown as Cached. The flow's parameters are
plain text, so that a deployment can hold them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.futures import PrefectFuture

from flows.running.ending import Outcome, finish, print_line, running
from flows.running.ui_artifacts import show_decisions
from lensllm.config import configfile
from lensllm.config.sections import Pipeline
from lensllm.core.errors import LensError
from lensllm.core.secrets import mask
from lensllm.store.artifacts import Ref, Store
from tasks.base.plan import Plan, RankingPlan
from tasks.execution.execute import Run, run_steps
from tasks.planning import estimate
from tasks.planning.models import pinned
from tasks.planning.plan import data_steps, make_plan
from tasks.planning.rounds import Sweep, sweep
from tasks.stages import inspection

# sections and keys of the settings that change no result
_NOT_SHOWN: Mapping[str, bool | set[str]] = {
    "engine": True,
    "tracking": True,
    "schedule": True,
    "data": {"max_row_bytes"},
}


@flow(name="rank", flow_run_name="{pipeline}", persist_result=False)
def rank(pipeline: str, file: str, artifacts: str, overrides: list[str] | None = None) -> Outcome:
    """Rank the candidates of ``pipeline`` in the configuration ``file``."""
    config = pinned(configfile.load(Path(file), pipeline, overrides or []))
    store = Store(Path(artifacts))
    store.prepare()
    shown = settings(config)
    with (
        store.using(f"a run of {pipeline}"),
        running(pipeline, config.tracking, shown, config.engine, store) as (run, mlflow),
    ):
        futures = run_steps(run, data_steps(config), {})
        run.stop_on_failure()
        plan = make_plan(config, store)  # knows the data by now: checks the sizes against it
        futures = _inspect(run, plan, futures)
        return finish(run, play(run, pipeline, plan, futures), futures, mlflow)


def _inspect(
    run: Run, plan: Plan, futures: dict[Ref, PrefectFuture[Any]]
) -> dict[Ref, PrefectFuture[Any]]:
    """Tokenise the data and say what is found in it, before anything is trained."""
    futures = run_steps(run, plan.with_dependencies(plan["tokens"].values()), futures)
    checked = inspection.step(plan)
    futures = run_steps(run, [checked], futures)
    if run.store.has(checked.ref):
        for row in inspection.findings(run.store, checked.ref):
            print_line(" ".join(row))
    return futures


def settings(config: Pipeline) -> dict[str, Any]:
    """The settings that results depend on, as MLflow shows them."""
    content: dict[str, Any] = json.loads(mask(config.model_dump_json(exclude=_NOT_SHOWN)))
    return content


def play(run: Run, name: str, plan: Plan, futures: dict[Ref, PrefectFuture[Any]]) -> RankingPlan:
    """Run the sweep of ``plan`` and plan its ranking; ``futures`` grows with it."""
    run.peak_bytes = partial(estimate.peak_bytes, plan)
    return run.plan_ranking(name, plan, _sweep(run, plan, futures))


def _sweep(run: Run, plan: Plan, futures: dict[Ref, PrefectFuture[Any]]) -> Sweep:
    """Run round after round until nothing is left to decide."""
    known = 0
    while True:
        now = sweep(plan, run.is_lost)
        if len(now.decisions) > known:
            known = len(now.decisions)
            show_decisions(run.store, now.decisions, over=now.over)
        steps = [
            step
            for step in (*plan.preparation, *now.steps)
            if step.ref not in futures and not run.is_lost(step.ref)
        ]
        if not steps:
            return now
        futures |= run_steps(run, steps, futures)
        for ref, (label, reason) in run.failures.items():
            # without a decision no further round can be chosen
            if not now.over and ref.stage in ("curve", "decision"):
                raise LensError(f"{label}: {reason}")
