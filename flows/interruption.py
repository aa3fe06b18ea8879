"""Ctrl-C and SIGTERM."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

INTERRUPTED = 130  # the exit code: 128 and the number of SIGINT

# An interruption ends workers at once, but tables in the making and requests to a server that is
# gone cannot be stopped; after this long the process ends all the same, as after kill -9.
_PATIENCE_SECONDS = 3.0


@contextmanager
def interruptible(err: Console) -> Iterator[None]:
    """Ctrl-C and SIGTERM stop the run where it is; finished cells are kept."""
    late = threading.Timer(_PATIENCE_SECONDS, _leave, [err])
    late.daemon = True

    def stop(*_: object) -> None:
        if not late.is_alive():
            late.start()
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        yield
    except (KeyboardInterrupt, Exception) as error:
        # Whatever else falls over while it stops is a part of that.
        if not (isinstance(error, KeyboardInterrupt) or late.is_alive()):
            raise
        _say_stopped(err)
        raise typer.Exit(INTERRUPTED) from None


def _leave(err: Console) -> None:
    _say_stopped(err)
    os._exit(INTERRUPTED)


def _say_stopped(err: Console) -> None:
    command = escape(shlex.join(["lensllm", *sys.argv[1:]]))
    err.print(
        f"\nStopped. Every finished cell is kept: go on with [bold]{command}[/bold]",
        soft_wrap=True,
    )
