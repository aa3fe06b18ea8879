"""Ctrl-C and SIGTERM end a command in time, whatever it is at."""

import signal
import subprocess
import sys

import pytest

# Prefect takes SIGTERM within a flow, and asks its server before it passes it on.
_COMMAND = """
import os, signal, time, typer
from rich.console import Console
from flows.cli.interruption import interruptible

def main(number: int, handler: str):
    with interruptible(Console(stderr=True)):
        if handler == "taken":
            signal.signal(number, lambda *_: time.sleep(1800))
        os.kill(os.getpid(), number)
        time.sleep(1800)

typer.run(main)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("handler", ["ours", "taken"])
def test_a_signal_ends_the_command_whoever_handles_it(number: signal.Signals, handler: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _COMMAND, str(int(number)), handler], stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 130
    assert b"Stopped. Every finished cell is kept" in said
