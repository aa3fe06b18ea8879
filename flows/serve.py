"""Scheduled pipelines on one machine: a Prefect server and what starts their runs, until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from flows.deploy import TAG, Deployment, remove_others
from flows.server import embedded_server
from lensllm.store import Store

if TYPE_CHECKING:
    from prefect.runner import Runner

# How often the server is asked for runs that are due: a run starts at most this late.
_SECONDS_BETWEEN_LOOKS = 5.0


def serve(
    found: Sequence[Deployment], store: Store, console: Console, port: int | None = None
) -> None:
    """Keep a server up and run ``found`` when they are due; returns on Ctrl-C or SIGTERM.

    The server's deployments are made anew at every start and are paused at the end, so runs that
    were due meanwhile are not made up for.
    """
    home: Path = store.root / "prefect"
    with (
        console.status("starting the Prefect server …") as waiting,
        embedded_server(home, port) as url,
    ):
        from flows.scheduled import SERVER_PROCESS
        from flows.zombies import mark_zombies

        mark_zombies()
        remove_others(found)
        waiting.stop()
        os.environ[SERVER_PROCESS] = str(os.getpid())
        console.print(f"Prefect UI: {url.removesuffix('/api')}", soft_wrap=True)
        for deployment in found:
            console.print(f"{deployment.pipeline}: {deployment.when}", soft_wrap=True)
        console.print("Ctrl-C ends server and runs.")
        _run_until_stopped(found)


def _run_until_stopped(found: Sequence[Deployment]) -> None:
    from prefect.runner import Runner

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    runner = Runner(name="lensllm serve", query_seconds=_SECONDS_BETWEEN_LOOKS)
    try:
        asyncio.run(_start(runner, found))
    except KeyboardInterrupt:
        return


async def _start(runner: Runner, found: Sequence[Deployment]) -> None:
    from prefect.client.schemas.objects import ConcurrencyLimitConfig
    from prefect.schedules import Cron
    from prefect.types.entrypoint import EntrypointType

    from flows.scheduled import scheduled

    for d in found:
        cron = d.schedule.cron
        made = await scheduled.ato_deployment(
            name=d.pipeline,
            description=d.description,
            parameters=d.parameters,
            tags=[TAG],
            schedule=Cron(cron, timezone=d.schedule.timezone) if cron else None,
            concurrency_limit=ConcurrencyLimitConfig(**d.concurrency),
            paused=False,  # the last serve paused it when it ended
            entrypoint_type=EntrypointType.MODULE_PATH,  # every run imports it anew
        )
        # as Runner.add_flow does: a pool that lensllm deploy gave it would wait for a worker
        made.work_pool_name = made.work_queue_name = None
        await runner.aadd_deployment(made)
    await runner.start()
