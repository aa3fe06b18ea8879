"""What a deployment runs: the main flow, in a process that a Prefect worker or ``serve`` starts.

The flow run's state says in a word how it went: *Unchanged* when everything was cached, *Completed*
with what was made again, *Incomplete* when a part failed and the ranking is made without it, and
*Failed*. Prefect's automations can be told apart by these names.
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
from flows.running.ending import Outcome, observers, reports, task_runner
from flows.running.progress import Tally, Terminal
from flows.running.slots import slots_of
from flows.schedules.deploy import altered_fields
from flows.server.runs import mark_zombies, tags_of_this_process
from lensllm.config import configfile
from lensllm.core.processes import die_with_parent
from lensllm.store.artifacts import Store

# Set by ``lensllm serve`` to its process number: the runs it starts do not outlive it.
SERVER_PROCESS = "LENSLLM_SERVE_PROCESS"
# What it has registered: the parameters of each deployment, by pipeline, as JSON.
REGISTERED = "LENSLLM_REGISTERED"
_WIDTH = 110  # columns of what a worker's log gets


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
    before = _shown(store, pipeline)
    with Terminal(Console(width=_WIDTH, highlight=False), slots) as terminal:
        observers.set((terminal,))
        main = rank.with_options(task_runner=task_runner(slots))
        with tags(*tags_of_this_process()):
            outcome = main(pipeline, file, artifacts)
    state = ended(outcome, terminal.tally, before, _shown(store, pipeline))
    print(f"{pipeline}: {state.message}", flush=True)
    return state


# The function has a name of its own, by which ``lensllm serve`` passes it on to its processes.
scheduled = flow(name="scheduled", flow_run_name="{pipeline}", persist_result=False)(rerun)


def _refusal(given: dict[str, str], registered: dict[str, dict[str, str]]) -> str:
    """The reason why ``serve`` does not run this; empty if it has registered it."""
    if given != registered.get(given["pipeline"]):
        return "refused: lensllm serve has not registered these parameters"
    context = FlowRunContext.get()
    if context and context.flow_run and context.flow_run.deployment_id:
        try:
            with get_client(sync_client=True) as client:
                there = client.read_deployment(context.flow_run.deployment_id)
        except ObjectNotFound:  # what was changed is replaced
            return "refused: its deployment is not there any more"
        if fields := altered_fields(there, given):
            return f"refused: its deployment was changed on the server ({', '.join(fields)})"
    return ""


def ended(
    outcome: Outcome, tally: Tally, before: datetime | None, shown: datetime | None
) -> State[None]:
    """How a run went whose report is shown since ``shown``, and the last one's since ``before``.

    What was made long ago is new all the same when another report was shown meanwhile.
    """
    if outcome.failures:
        failed = "; ".join(f"{label}: {reason}" for label, reason in outcome.failures)
        return Completed(name="Incomplete", message=f"{_made_again(tally)}; failed: {failed}")
    if not tally.computed and shown and shown == before:
        since = f"nothing changed since {shown:%Y-%m-%d %H:%M} UTC: everything cached"
        return Completed(name="Unchanged", message=f"{since} ({tally.cached.total()} artefacts)")
    return Completed(message=_made_again(tally))


def _made_again(tally: Tally) -> str:
    stages = ", ".join(f"{stage} {count}" for stage, count in sorted(tally.computed.items()))
    return f"computed {stages or 'nothing'}; {tally.cached.total()} artefacts were cached"


def _shown(store: Store, pipeline: str) -> datetime | None:
    """Since when the pipeline's report is what it is; None before the first."""
    try:
        written = (reports(store, pipeline) / "report.html").stat().st_mtime
    except FileNotFoundError:
        return None
    return datetime.fromtimestamp(written, UTC)


def _name_process() -> None:
    """Tag this flow run, which was there before its process, so that a dead one is recognised."""
    context = FlowRunContext.get()
    if context and context.flow_run:
        with get_client(sync_client=True) as client:
            named = [*context.flow_run.tags, *tags_of_this_process()]
            client.update_flow_run(context.flow_run.id, tags=named)
