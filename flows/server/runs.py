"""Runs as the Prefect server has them: whose process each is, and what is not believed of them.

A flow run carries its process as tags. At the start of a command the runs of this machine whose
process is dead are set to Crashed, with their task runs; Prefect would show them as running for
ever. Import this inside ``flows.server.prefect_server.embedded_server``: Prefect reads its settings
when it is imported.
"""

import os
import re
import socket
import sys
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NoReturn, TypeVar
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType, TaskRun
from prefect.results import ResultStore
from prefect.states import Crashed

from lensllm.core.errors import LensError
from lensllm.core.processes import alive, started

T = TypeVar("T")

_HOST = "lensllm:host="
_PROCESS = "lensllm:process="  # number and start (processes.started): 4711@1764000000.25
_PAGE = 200  # the most the server gives in one answer
_UNFINISHED = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
_NOT_LOADED = (
    "a run's state on the Prefect server names a stored result, and no run of ours stores one: "
    "it is not loaded, since that would run code; somebody else has set it"
)


def refuse_stored_results() -> None:
    """Keep Prefect in this process from loading results that a state on its server names.

    Flows of ours pass references and store no result. A state that names one was set by somebody
    else, and loading it would unpickle a file, that is, run what is in it.
    """
    for method in ("_from_metadata", "_read", "_aread"):  # before a block or a file is read
        assert hasattr(ResultStore, method)
        setattr(ResultStore, method, _refuse)


def _refuse(*_: Any, **__: Any) -> NoReturn:
    _warn_once()  # Prefect drops the error
    raise LensError(_NOT_LOADED)


@cache  # Prefect asks ten times
def _warn_once() -> None:
    print(_NOT_LOADED, file=sys.stderr, flush=True)


def tags_of_this_process() -> list[str]:
    """Tags for the flow runs of this process: ``with prefect.tags(*tags_of_this_process()): …``."""
    return [_host(), f"{_PROCESS}{os.getpid()}@{started(os.getpid()):.2f}"]


def has_process(tags: Iterable[str]) -> bool:
    """Return whether a flow run's ``tags`` name its process, as they do once its flow has begun."""
    return any(tag.startswith(_PROCESS) for tag in tags)


def mark_zombies() -> int:
    """Set the runs of this machine's dead processes to Crashed; return their number.

    It takes two requests when there is nothing to do. Task runs come first, so that after an
    interruption here their flow run is still found the next time.
    """
    with get_client(sync_client=True) as client:
        flow_runs, task_runs = _unfinished_flow_runs(client), _unfinished_task_runs(client)
        tags = {run.id: run.tags for run in flow_runs}
        parents = {run.flow_run_id for run in task_runs if run.flow_run_id} - tags.keys()
        tags |= _tags_of(client, list(parents))  # of flow runs that ended before their tasks
        dead = {run_id for run_id, names in tags.items() if not _is_alive(names)}
        crashed: State[None] = Crashed(message="Its process is gone.")
        dead_tasks = [run.id for run in task_runs if run.flow_run_id in dead]
        dead_flows = [run.id for run in flow_runs if run.id in dead]
        for task_run in dead_tasks:
            client.set_task_run_state(task_run, crashed, force=True)
        for flow_run in dead_flows:
            client.set_flow_run_state(flow_run, crashed, force=True)
    return len(dead_tasks) + len(dead_flows)


def _unfinished_flow_runs(client: SyncPrefectClient) -> list[FlowRun]:
    state = FlowRunFilterState(type=FlowRunFilterStateType(any_=_UNFINISHED))
    ours = FlowRunFilter(tags=FlowRunFilterTags(all_=[_host()]), state=state)
    return _every_page(
        lambda offset: client.read_flow_runs(flow_run_filter=ours, limit=_PAGE, offset=offset)
    )


def _unfinished_task_runs(client: SyncPrefectClient) -> list[TaskRun]:
    ours = FlowRunFilter(tags=FlowRunFilterTags(all_=[_host()]))
    state = TaskRunFilterState(type=TaskRunFilterStateType(any_=_UNFINISHED))
    return _every_page(
        lambda offset: client.read_task_runs(
            flow_run_filter=ours,
            task_run_filter=TaskRunFilter(state=state),
            limit=_PAGE,
            offset=offset,
        )
    )


def _tags_of(client: SyncPrefectClient, flow_runs: list[UUID]) -> dict[UUID, list[str]]:
    tags: dict[UUID, list[str]] = {}
    for i in range(0, len(flow_runs), _PAGE):
        some = FlowRunFilter(id=FlowRunFilterId(any_=flow_runs[i : i + _PAGE]))
        tags |= {run.id: run.tags for run in client.read_flow_runs(flow_run_filter=some)}
    return tags


def _every_page(read: Callable[[int], list[T]]) -> list[T]:
    """All results of a query that gives at most ``_PAGE`` of them, from an offset on."""
    results: list[T] = []
    while len(page := read(len(results))) == _PAGE:
        results += page
    return results + page


def _host() -> str:
    return _HOST + socket.gethostname()


def _is_alive(tags: Iterable[str]) -> bool:
    """Return whether the process named in ``tags`` still runs; True if none is named."""
    for tag in tags:
        if named := re.fullmatch(rf"{_PROCESS}(\d{{1,10}})@(\d{{1,20}}\.\d\d)", tag):
            return alive(int(named[1]), float(named[2]))
    return True
