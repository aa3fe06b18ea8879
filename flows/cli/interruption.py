"""Ctrl-C and SIGTERM: they stop a command within seconds, and finished cells are kept."""

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

# An interruption ends workers at once, but tables in the making and requests to a dead server
# cannot be stopped; after this long the process ends all the same, as after kill -9.
_GRACE_SECONDS = 3.0


@contextmanager
def interruptible(err: Console) -> Iterator[None]:
    """Stop the block on Ctrl-C or SIGTERM, say how to go on, and exit with code 130."""
    stopping = threading.Event()

    def stop(*_: object) -> None:
        stopping.set()
        raise KeyboardInterrupt

    for number in _SIGNALS:
        signal.signal(number, stop)
    # Within a flow Prefect handles SIGTERM and first tells its server, for minutes if that is dead.
    # Python also writes the signal's number to the wake-up descriptor, even while the main thread
    # is busy, and the other thread reads it there.
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    threading.Thread(target=_exit_late, args=(receiver, stopping, err), daemon=True).start()
    before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    try:
        yield
    except (KeyboardInterrupt, Exception) as error:
        # Any error while the run stops is a consequence of the interruption.
        if not (isinstance(error, KeyboardInterrupt) or stopping.is_set()):
            raise
        _say_stopped(err)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        signal.set_wakeup_fd(before)
        sender.close()


def _exit_late(receiver: socket.socket, stopping: threading.Event, err: Console) -> None:
    """End the process if it still runs some time after the first of the signals."""
    with receiver:
        while number := receiver.recv(1):
            if number[0] in _SIGNALS:
                stopping.set()
                time.sleep(_GRACE_SECONDS)
                _say_stopped(err)
                os._exit(INTERRUPTED)


def _say_stopped(err: Console) -> None:
    command = escape(shlex.join(["lensllm", *sys.argv[1:]]))
    err.print(
        f"\nStopped. Every finished cell is kept: go on with [bold]{command}[/bold]",
        soft_wrap=True,
    )
