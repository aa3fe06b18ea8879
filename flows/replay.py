"""replay: rank candidates from a table of losses measured elsewhere, without any model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from flows.running.ending import Outcome, finish, running
from lensllm.config.sections import Engine, Replay, public
from lensllm.store.artifacts import Store
from tasks.execution.execute import run_steps
from tasks.planning.replay import goal, name_of, plan_ranking
from tasks.stages import losses


@flow(name="replay", flow_run_name="{name}", persist_result=False)
def replay(name: str, settings: dict[str, Any], artifacts: str) -> Outcome:
    """Rank the candidates of a table; ``settings`` are a ``Replay`` section as text."""
    asked = Replay.model_validate(settings)
    store = Store(Path(artifacts))
    store.prepare()
    shown = public(asked)
    with (
        store.using(f"a replay of {name}"),
        running(name_of(asked), asked.tracking, shown, Engine(slots=1), store) as (run, mlflow),
    ):
        table = losses.step(asked.table)
        futures = run_steps(run, [table], {})
        run.stop_on_failure()
        ranking = plan_ranking(goal(asked, store, table.ref), store, table.ref)
        return finish(run, ranking, futures, mlflow)
