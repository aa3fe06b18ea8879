"""Runs that a killed process left behind: Prefect would show them as running for ever.

A flow run carries the process it runs in as tags; at the start of a command those of this machine
whose process is gone are set to Crashed, with their task runs. Import only after
``flows.environment.prepare`` and inside ``embedded_server``.
"""

import os
import socket
from functools import cache
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.objects import TaskRun
from prefect.states import Crashed

from lensllm.processes import alive, started

_HOST = "lensllm:host="
_PROCESS = "lensllm:process="  # number and start time, e.g. 4711@1764000000.25
_PAGE = 200  # the server's limit for one answer
_UNFINISHED = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]


def tags_of_this_process() -> list[str]:
    """Tags for the flow runs of this process: ``with prefect.tags(*tags_of_this_process())``."""
    return [_host_tag(), f"{_PROCESS}{os.getpid()}@{started(os.getpid()):.2f}"]


def mark_zombies() -> int:
    """Set the runs of this machine's dead processes to Crashed; returns how many runs it set.

    Two requests when there are none. Task runs are set first, so that an interruption here
    leaves their flow run for the next time.
    """
    ours = FlowRunFilter(tags=FlowRunFilterTags(all_=[_host_tag()]))
    with get_client(sync_client=True) as client:
        flow_runs = {run.id: run for run in _unfinished_flow_runs(client, ours)}
        task_runs = _unfinished_task_runs(client, ours)
        
    return 0
