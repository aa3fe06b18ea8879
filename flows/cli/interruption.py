"""Ctrl-C and SIGTERM."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

INTERRUPTED = 130  # the exit code: 128 and the number of SIGINT

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

# An interruption ends workers at once, but tables in the making and requests to a server that is
# gone cannot be stopped; after this long the process ends all the same, as after kill -9.
_PATIENCE_SECONDS = 3.0


@contextmanager
def interruptible(err: Console) -> Iterator[None]:
    """Ctrl-C and SIGTERM stop the run where it is; finished cells are kept."""
    stopping = threading.Event()

    def stop(*_: object) -> None:
        stopping.set()
        raise KeyboardInterrupt

    for number in _SIGNALS:
        signal.signal(number, stop)
    # Within a flow SIGTERM is Prefect's, which first tells the server, for minutes if that is gone.
    # What Python writes here on a signal tells us as well, and when the main thread is busy, too.
    ear, mouth = socket.socketpair()
    mouth.setblocking(False)
    threading.Thread(target=_leave_late, args=(ear, stopping, err), daemon=True).start()
    before = signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
    try:
        yield
    except (KeyboardInterrupt, Exception) as error:
        # Whatever else falls over while it stops is a part of that.
        if not (isinstance(error, KeyboardInterrupt) or stopping.is_set()):
            raise
        _say_stopped(err)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        signal.set_wakeup_fd(before)
        mouth.close()


def _leave_late(ear: socket.socket, stopping: threading.Event, err: Console) -> None:
    """Some time after the first of our signals, end the process if it still runs."""
    with ear:
        while number := ear.recv(1):
            if number[0] in _SIGNALS:
                stopping.set()
                time.sleep(_PATIENCE_SECONDS)
                _leave(err)


def _leave(err: Console) -> None:
    _say_stopped(err)
    os._exit(INTERRUPTED)


def _say_stopped(err: Console) -> None:
    command = escape(shlex.join(["lensllm", *sys.argv[1:]]))
    err.print(
        f"\nStopped. Every finished cell is kept: go on with [bold]{command}[/bold]",
        soft_wrap=True,
    )
