"""Waiting in tests. Limits are against hanging alone: a busy machine takes as long as it takes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

from lensllm.core.processes import started

# Longer than anything a test waits for, on the slowest machine.
HANG_SECONDS = float(os.environ.get("HANG_SECONDS", "1800"))

T = TypeVar("T")


def wait(condition: Callable[[], T], what: str | Callable[[], str]) -> T:
    """Wait until ``condition`` gives something true, and return it; ``what`` names it if it hangs."""
    deadline = time.monotonic() + HANG_SECONDS
    while not (found := condition()):
        if time.monotonic() > deadline:
            name = what if isinstance(what, str) else what()
            raise AssertionError(f"{name}: not within {HANG_SECONDS:g} s")
        time.sleep(0.05)
    return found


def ends(pid: int) -> bool:
    """Wait until process ``pid`` has ended, and return True."""
    return wait(lambda: started(pid) is None, f"the end of process {pid}")
