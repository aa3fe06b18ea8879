"""Run a flow from a terminal, with a Prefect server and a live screen for as long as it runs."""

from __future__ import annotations

import importlib
import logging
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console

from flows.running.terminal import Tally, Terminal, page_address
from flows.server.prefect_server import embedded_server, server_home
from lensllm.core.errors import DiskFullError, LensError
from lensllm.store.artifacts import Store

# For the server's and MLflow's databases and a few small cells; they fail in obscure ways without.
_LEAST_SPACE_BYTES = 100_000_000
_NO_SPACE_BYTES = 5_000_000  # a failure with less than this free is put down to it
_NEEDED_LATER = ("tasks.planning.plan", "lensllm.report.page", "mlflow.tracking.client",
                 "mlflow.store.tracking.sqlalchemy_store", "mlflow.artifacts",
                 "flows.running.ending", "prefect.task_runners")  # fmt: skip


def launch(
    name: str, arguments: Sequence[Any], slots: int, store: Store, console: Console
) -> tuple[Any, Tally]:
    """Run the flow ``name`` of ``flows/<name>.py``, under the user's Prefect server or an embedded
    one; return the flow's result and the counts of its steps.
    """
    store.require_space(_LEAST_SPACE_BYTES)
    with (
        console.status("starting the Prefect server …") as waiting,
        embedded_server(server_home(store), while_starting=_import_ahead) as server,
    ):
        # Not at the top: the imports take a second, and here the other thread has done them.
        from prefect import tags

        from flows.running.ending import observers, task_runner
        from flows.server.runs import mark_zombies, tags_of_this_process

        _quiet_console()
        mark_zombies()
        waiting.stop()
        console.print(
            f"Prefect UI while this runs: {page_address(server, console)}", soft_wrap=True
        )
        flow = getattr(importlib.import_module(f"flows.{name}"), name)
        with Terminal(console, slots) as terminal:
            observers.set((terminal,))
            with tags(*tags_of_this_process()), _full_disk_explained(store):
                result = flow.with_options(task_runner=task_runner(slots))(*arguments)
    return result, terminal.tally


def _import_ahead() -> None:
    """Import the flow's modules while the server starts: seconds, on a second core."""
    for name in _NEEDED_LATER:
        with suppress(Exception):  # the flow's own import raises it again
            importlib.import_module(name)


@contextmanager
def _full_disk_explained(store: Store) -> Iterator[None]:
    """Raise ``DiskFullError`` for a failure on a full disk: Prefect's errors do not name it."""
    try:
        yield
    except LensError:
        raise
    except Exception as error:
        if shutil.disk_usage(store.root).free >= _NO_SPACE_BYTES:
            raise
        raise DiskFullError(
            f"artifacts folder {store.root}: no space is left on its disk; free some and run the "
            "same command again"
        ) from error


class _StandardError(logging.Handler):
    """Handler of our own warnings: Prefect takes the root logger, which is silenced here."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)  # looked up now: a live screen's


def _quiet_console() -> None:
    """Keep Prefect's tracebacks off the console: errors are said in a sentence, and its pages show
    the tracebacks."""
    from prefect.logging.handlers import PrefectConsoleHandler

    for name in (None, "prefect"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, PrefectConsoleHandler):
                handler.setLevel(logging.CRITICAL + 1)
    ours = logging.getLogger("lensllm")
    ours.propagate = False
    if not ours.handlers:
        ours.addHandler(_StandardError(logging.WARNING))
