"""``lensllm serve``: scheduled pipelines on one machine, with a Prefect server, until Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

from rich.console import Console

from flows.running.terminal import page_address
from flows.schedules.deploy import FLOW, TAG, Deployment, altered_fields, remove_others
from flows.server.environment import prefect_home
from flows.server.prefect_server import embedded_server
from lensllm.core.errors import ConfigError
from lensllm.store.artifacts import Store

if TYPE_CHECKING:
    from prefect.runner import Runner

# The server is asked this often for runs that are due: a run starts at most so late.
_POLL_SECONDS = 5.0


def serve(
    found: Sequence[Deployment], store: Store, console: Console, port: int | None = None
) -> None:
    """Keep a server up and run ``found`` when they are due, until Ctrl-C or SIGTERM.

    The deployments are made anew at every start and paused at the end, so runs that were due
    meanwhile are not made up for. Raises ``ConfigError`` when the user names a server:
    others may have deployed the same pipelines there, to workers.
    """
    if named := os.environ.get("PREFECT_API_URL"):
        raise ConfigError(
            f"PREFECT_API_URL names {named}, where lensllm deploy and workers run pipelines; "
            "unset it to serve them here, on a server of our own"
        )
    home = prefect_home(store.root)
    with (
        _until_stopped(),
        console.status("starting the Prefect server …") as waiting,
        embedded_server(home, port) as server,
    ):
        from flows.schedules.scheduled import REGISTERED, SERVER_PROCESS
        from flows.server.runs import mark_zombies

        mark_zombies()
        remove_others(found)
        waiting.stop()
        os.environ[SERVER_PROCESS] = str(os.getpid())
        os.environ[REGISTERED] = json.dumps({d.pipeline: d.parameters for d in found})
        console.print(f"Prefect UI: {page_address(server, console)}", soft_wrap=True)
        for deployment in found:
            console.print(f"{deployment.pipeline}: {deployment.when}", soft_wrap=True)
        console.print("Ctrl-C ends server and runs.")
        with suppress(asyncio.CancelledError):
            asyncio.run(_serve(found, console))


@contextmanager
def _until_stopped() -> Iterator[None]:
    """End the block on Ctrl-C and SIGTERM, also while the server is still starting."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    with suppress(KeyboardInterrupt):
        yield


async def _forget_unfinished(deployment: UUID) -> None:
    """Cancel runs that were due, waiting or only beginning when ``serve`` was last stopped.

    They have named no process yet, so ``mark_zombies`` does not find them, and they would keep the
    next run from starting.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterId,
        FlowRunFilter,
        FlowRunFilterExpectedStartTime,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import State, StateType
    from prefect.states import Cancelled

    from flows.server.runs import has_process

    unfinished = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
    left = FlowRunFilter(
        expected_start_time=FlowRunFilterExpectedStartTime(before_=datetime.now(UTC)),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=unfinished)),
    )
    async with get_client() as client:
        for run in await client.read_flow_runs(
            flow_run_filter=left,
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment])),
        ):
            if not has_process(run.tags):
                state: State[None] = Cancelled(message="lensllm serve was stopped before it began.")
                await client.set_flow_run_state(run.id, state, force=True)


async def _serve(found: Sequence[Deployment], console: Console) -> None:
    """Register ``found`` and start runs that are due until Ctrl-C or SIGTERM cancels it."""
    from prefect.runner import Runner

    runner = Runner(name="lensllm serve", query_seconds=_POLL_SECONDS)
    for d in found:
        await _forget_unfinished(await _register(runner, d))
    running = asyncio.gather(runner.start(), _keep_registered(runner, found, console))
    await asyncio.sleep(0)  # the runner sets a handler, which would end it in the middle of a run

    def stop() -> None:
        # asyncio would log the other tasks, which are cancelled too.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        running.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    await running


async def _register(runner: Runner, d: Deployment) -> UUID:
    """Register a deployment as the configuration has it, replacing the server's; return its id.

    The runner is given the flow itself: its runs do not load what the server says.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentUpdate
    from prefect.client.schemas.objects import ConcurrencyLimitConfig
    from prefect.schedules import Cron
    from prefect.types.entrypoint import EntrypointType

    from flows.schedules.scheduled import scheduled

    cron = d.schedule.cron
    number = await runner.aadd_flow(
        scheduled,
        name=d.pipeline,
        description=d.description,
        parameters=d.parameters,
        tags=[TAG],
        schedule=Cron(cron, timezone=d.schedule.timezone) if cron else None,
        concurrency_limit=ConcurrencyLimitConfig(**d.concurrency),
        paused=False,  # the last serve paused it when it ended
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    async with get_client() as client:
        # Registering leaves the path as it was, and somebody may have set it.
        await client.update_deployment(number, DeploymentUpdate(path=""))
    return number


async def _keep_registered(runner: Runner, found: Sequence[Deployment], console: Console) -> None:
    """Register a deployment again that somebody has changed on the server, and say so."""
    from httpx import HTTPError
    from prefect.client.orchestration import get_client
    from prefect.deployments.runner import DeploymentApplyError
    from prefect.exceptions import ObjectNotFound

    async def put_right(d: Deployment) -> None:
        try:
            there = await client.read_deployment_by_name(f"{FLOW}/{d.pipeline}")
            fields = ", ".join(altered_fields(there, d.parameters))
        except ObjectNotFound:
            fields = "it was deleted"
        if fields:
            await _register(runner, d)
            text = f"{d.pipeline}: its deployment was changed on the server ({fields}): put right"
            console.print(text, soft_wrap=True)

    async with get_client() as client:
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            for d in found:
                with suppress(HTTPError, DeploymentApplyError):  # a server that is started again
                    await put_right(d)
