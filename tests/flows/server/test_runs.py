"""Runs left by a killed process become Crashed; those of a living one are left alone."""

import subprocess
import sys
from pathlib import Path
from uuid import UUID

from flows.server.prefect_server import embedded_server
from tests.waiting import ends, wait

# A command in the middle of a flow: one task done, one running, until it is killed.
_COMMAND = """
import time
from prefect import flow, tags, task
from prefect.cache_policies import NO_CACHE
from flows.server.runs import tags_of_this_process

@task(cache_policy=NO_CACHE, persist_result=False)
def cell(seconds):
    time.sleep(seconds)

@flow(name="killed")
def sweep():
    cell(0)
    print("running", flush=True)
    cell(600)

with tags(*tags_of_this_process()):
    sweep()
"""


def test_runs_of_a_killed_process_are_set_to_crashed(home: Path) -> None:
    with embedded_server(home):
        from prefect import flow, tags
        from prefect.client.orchestration import get_client

        from flows.server.runs import mark_zombies, tags_of_this_process

        with subprocess.Popen(
            [sys.executable, "-c", _COMMAND], stdout=subprocess.PIPE, text=True
        ) as killed:
            assert killed.stdout is not None
            assert killed.stdout.readline() == "running\n"
            with get_client(sync_client=True) as client:
                wait(
                    lambda: "Running" in {run.state_name for run in client.read_task_runs()},
                    "the second task",
                )
            assert mark_zombies() == 0  # it lives
            killed.kill()
        assert ends(killed.pid)

        @flow(name="alive")
        def alive() -> int:
            return mark_zombies()  # while this very process has a run of its own

        with tags(*tags_of_this_process()):
            assert alive() == 2  # the flow run and its second task
        assert mark_zombies() == 0

        with get_client(sync_client=True) as client:
            names = {flow.id: flow.name for flow in client.read_flows()}
            flow_runs = {names[run.flow_id]: run for run in client.read_flow_runs()}
            task_runs = [run for run in client.read_task_runs() if _of(run, flow_runs["killed"].id)]
        assert flow_runs["killed"].state_name == "Crashed"
        assert flow_runs["alive"].state_name == "Completed"
        assert sorted(str(run.state_name) for run in task_runs) == ["Completed", "Crashed"]


def _of(run: object, flow_run: UUID) -> bool:
    return getattr(run, "flow_run_id", None) == flow_run
