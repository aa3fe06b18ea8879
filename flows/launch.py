"""Run the main flow from a terminal: server up, screen on, flow through, everything down."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from flows.progress import Tally, Terminal
from flows.server import embedded_server
from flows.slots import slots_of
from lensllm.config import Pipeline
from lensllm.store import Store

if TYPE_CHECKING:
    from flows.rank import Outcome

# For the server's and MLflow's databases and a few small cells; they fail in obscure ways without.
_LEAST_SPACE_BYTES = 100_000_000


def launch(
    name: str,
    settings: Pipeline,
    file: Path,
    store: Store,
    overrides: list[str],
    console: Console,
) -> tuple[Outcome, Tally]:
    """Run pipeline ``name`` under the user's Prefect server, or an embedded one."""
    store.require_space(_LEAST_SPACE_BYTES)
    home = store.root / "prefect"
    with console.status("starting the Prefect server …") as waiting, embedded_server(home) as url:
        # Only now: Prefect reads its settings, the server's address among them, when imported.
        from flows.rank import observers, rank, task_runner
        from flows.zombies import mark_zombies, tags_of_this_process

        _quiet_console()
        mark_zombies()
        waiting.stop()
        console.print(f"Prefect UI while this runs: {url.removesuffix('/api')}", soft_wrap=True)
        from prefect import tags

        with Terminal(console, slots_of(settings.engine)[0]) as terminal:
            observers.set((terminal,))
            with tags(*tags_of_this_process()):
                outcome = rank.with_options(task_runner=task_runner(settings))(
                    name, str(file.absolute()), str(store.root), overrides
                )
    return outcome, terminal.tally


def _quiet_console() -> None:
    """Prefect prints a traceback for what we say in a sentence; its pages still show it."""
    from prefect.logging.handlers import PrefectConsoleHandler

    for name in (None, "prefect"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, PrefectConsoleHandler):
                handler.setLevel(logging.CRITICAL + 1)
