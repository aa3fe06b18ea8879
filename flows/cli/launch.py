"""Run a flow from a terminal: server up, screen on, flow through, everything down."""

from __future__ import annotations

import importlib
import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console

from flows.running.console import page_address
from flows.running.progress import Tally, Terminal
from flows.server.prefect_server import embedded_server, server_home
from lensllm.core.errors import DiskFullError, LensError
from lensllm.store.artifacts import Store

if TYPE_CHECKING:
    from prefect.task_runners import ThreadPoolTaskRunner

T = TypeVar("T")

# For the server's and MLflow's databases and a few small cells; they fail in obscure ways without.
_LEAST_SPACE_BYTES = 100_000_000
_NO_SPACE_BYTES = 5_000_000  # a failure with less than this free is put down to it
_NEEDED_LATER = ("tasks.planning.plan", "lensllm.report.page", "mlflow.tracking.client",
                 "mlflow.store.tracking.sqlalchemy_store", "mlflow.artifacts",
                 "flows.running.ending", "prefect.task_runners")  # fmt: skip


def launch(
    start: Callable[[ThreadPoolTaskRunner], T], slots: int, store: Store, console: Console
) -> tuple[T, Tally]:
    """Run the flow that ``start`` calls, under the user's Prefect server or an embedded one.

    ``start`` is given the flow's task runner: as many threads as slots, so that a task that runs in
    the pages is one that really runs.
    """
    store.require_space(_LEAST_SPACE_BYTES)
    with (
        console.status("starting the Prefect server …") as waiting,
        embedded_server(server_home(store), while_starting=_import_ahead) as server,
    ):
        # Not at the top: it takes a second, and here the other thread has done it.
        from prefect import tags
        from prefect.task_runners import ThreadPoolTaskRunner

        from flows.running.ending import observers
        from flows.server.zombies import mark_zombies, tags_of_this_process

        _quiet_console()
        mark_zombies()
        waiting.stop()
        console.print(
            f"Prefect UI while this runs: {page_address(server, console)}", soft_wrap=True
        )
        with Terminal(console, slots) as terminal:
            observers.set((terminal,))
            with tags(*tags_of_this_process()), _explained(store):
                outcome = start(ThreadPoolTaskRunner(max_workers=slots))
    return outcome, terminal.tally


def _import_ahead() -> None:
    """Load what the flow will need while the server starts: seconds, on a second core."""
    for name in _NEEDED_LATER:
        with suppress(Exception):  # whoever needs it will say so
            importlib.import_module(name)


@contextmanager
def _explained(store: Store) -> Iterator[None]:
    """On a full disk Prefect's server fails as well, and what it says tells nobody why."""
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


class _Aloud(logging.Handler):
    """Our own warnings on standard error: Prefect takes the root logger, and we silence it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)  # looked up now: a live screen's


def _quiet_console() -> None:
    """Prefect prints a traceback for what we say in a sentence; its pages still show it."""
    from prefect.logging.handlers import PrefectConsoleHandler

    for name in (None, "prefect"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, PrefectConsoleHandler):
                handler.setLevel(logging.CRITICAL + 1)
    ours = logging.getLogger("lensllm")
    ours.propagate = False
    if not ours.handlers:
        ours.addHandler(_Aloud(logging.WARNING))
