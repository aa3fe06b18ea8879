"""scheduled: the flow of a deployment, the main flow in a process of a worker or of ``serve``.

The flow run's state names its outcome: *Unchanged* if everything was cached, *Completed* with what
was made again, *Incomplete* if a part failed and the ranking was made without it, and *Failed*.
Prefect's automations can select runs by these names.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from prefect import flow, get_client, tags
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed, Failed
from rich.console import Console

from flows.rank import rank
from flows.running.ending import Outcome, observers, task_runner
from flows.running.slots import slots_of
from flows.running.terminal import Tally, Terminal
from flows.schedules.deploy import altered_fields
from flows.server.runs import mark_zombies, tags_of_this_process
from lensllm.config import configfile
from lensllm.core.processes import die_with_parent
from lensllm.report.reading import report_folder
from lensllm.store.artifacts import Store

# Process number of ``lensllm serve``, for the runs that it starts: they do not outlive it.
SERVER_PROCESS = "LENSLLM_SERVE_PROCESS"
# The parameters of each deployment that ``lensllm serve`` has registered, by pipeline, as JSON.
REGISTERED = "LENSLLM_REGISTERED"
_WIDTH = 110  # columns of a worker's log


def rerun(pipeline: str, file: str, artifacts: str) -> State[None]:
    """Rank the candidates of ``pipeline`` again, as far as anything changed."""
    if server := os.environ.get(SERVER_PROCESS):
        die_with_parent(int(server))
        given = {"pipeline": pipeline, "file": file, "artifacts": artifacts}
        if reason := _refusal(given, json.loads(os.environ[REGISTERED])):
            print(f"{pipeline}: {reason}", flush=True)
            return Failed(message=reason)
    store = Store(Path(artifacts))
    store.prepare()
    _name_process()
    mark_zombies()
    slots = slots_of(configfile.load(Path(file), pipeline).engine)[0]
    before = _report_time(store, pipeline)
    with Terminal(Console(width=_WIDTH, highlight=False), slots) as terminal:
        observers.set((terminal,))
        main = rank.with_options(task_runner=task_runner(slots))
        with tags(*tags_of_this_process()):
            outcome = main(pipeline, file, artifacts)
    state = ended(outcome, terminal.tally, before, _report_time(store, pipeline))
    print(f"{pipeline}: {state.message}", flush=True)
    return state


# The function has a name of its own, by which ``lensllm serve`` passes it on to its processes.
scheduled = flow(name="scheduled", flow_run_name="{pipeline}", persist_result=False)(rerun)


def _refusal(given: dict[str, str], registered: dict[str, dict[str, str]]) -> str:
    """The reason why ``serve`` does not run ``given``; empty if it has registered that."""
    if given != registered.get(given["pipeline"]):
        return "refused: lensllm serve has not registered these parameters"
    context = FlowRunContext.get()
    if context and context.flow_run and context.flow_run.deployment_id:
        try:
            with get_client(sync_client=True) as client:
                there = client.read_deployment(context.flow_run.deployment_id)
        except ObjectNotFound:  # a changed deployment is replaced
            return "refused: its deployment is not there any more"
        if fields := altered_fields(there, given):
            return f"refused: its deployment was changed on the server ({', '.join(fields)})"
    return ""


def ended(
    outcome: Outcome, tally: Tally, before: datetime | None, shown: datetime | None
) -> State[None]:
    """The state of a run, from the times of its report (``shown``) and of the last one.

    A report that was made long ago is new all the same if another one was shown meanwhile.
    """
    if failures := outcome.result.failed:
        failed = "; ".join(f"{label}: {reason}" for label, reason in failures)
        return Completed(name="Incomplete", message=f"{_made_again(tally)}; failed: {failed}")
    if not tally.done and shown and shown == before:
        since = f"nothing changed since {shown:%Y-%m-%d %H:%M} UTC: everything cached"
        return Completed(name="Unchanged", message=f"{since} ({tally.cached.total()} artefacts)")
    return Completed(message=_made_again(tally))


def _made_again(tally: Tally) -> str:
    stages = ", ".join(f"{stage} {count}" for stage, count in sorted(tally.done.items()))
    return f"computed {stages or 'nothing'}; {tally.cached.total()} artefacts were cached"


def _report_time(store: Store, pipeline: str) -> datetime | None:
    """The time of the pipeline's last change of report; None before the first."""
    try:
        written = (report_folder(store, pipeline) / "report.html").stat().st_mtime
    except FileNotFoundError:
        return None
    return datetime.fromtimestamp(written, UTC)


def _name_process() -> None:
    """Tag this flow run, which is older than its process, so that a dead process is recognised."""
    context = FlowRunContext.get()
    if context and context.flow_run:
        with get_client(sync_client=True) as client:
            named = [*context.flow_run.tags, *tags_of_this_process()]
            client.update_flow_run(context.flow_run.id, tags=named)
