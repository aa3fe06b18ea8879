"""A child must not survive its parent, and a process number must not be taken for another's."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lensllm.core.processes import alive, cores, started
from tests.waiting import HANG_SECONDS

# A parent that prints its child's number and waits to be killed; the child never ends by itself.
_PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-uc", sys.argv[1], str(os.getpid())],
                         stdout=subprocess.PIPE, text=True)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""
_BY_KERNEL = "import sys, time; from lensllm.core.processes import die_with_parent as stay; "
_BY_WATCHDOG = (
    "import sys, time, threading; from lensllm.core.processes import _watch; "
    "stay = lambda p: threading.Thread(target=_watch, args=(p,), daemon=True).start(); "
)


def gone(pid: int, within_seconds: float = HANG_SECONDS) -> bool:
    deadline = time.monotonic() + within_seconds
    while started(pid) is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    return started(pid) is None


@pytest.mark.parametrize("how", [_BY_KERNEL, _BY_WATCHDOG], ids=["as here", "portable"])
def test_a_child_dies_when_its_parent_is_killed(how: str) -> None:
    child = how + "stay(int(sys.argv[1])); print('up', flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, child], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert started(pid) is not None
        parent.kill()
    assert gone(pid)


def test_a_child_whose_parent_is_dead_already_exits() -> None:
    never_a_parent = os.getpid()  # the grandchild's parent is the process in between
    code = (
        "import sys; from lensllm.core.processes import die_with_parent; "
        "die_with_parent(int(sys.argv[1])); print('still here')"
    )
    middle = (
        "import subprocess, sys; "
        "sys.exit(subprocess.run([sys.executable, *sys.argv[1:]]).returncode)"
    )
    done = subprocess.run(
        [sys.executable, "-c", middle, "-c", code, str(never_a_parent)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")


def test_this_process_is_alive_since_its_own_start_only() -> None:
    start = started(os.getpid())
    assert start is not None
    assert alive(os.getpid(), float(f"{start:.2f}"))  # as notes have it
    assert not alive(os.getpid(), start - 0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel notes a date")
def test_a_start_is_told_from_a_clock_that_does_not_jump() -> None:
    """By the kernel's ticks since the machine's start, not by a date reckoned from the time now."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    start = started(os.getpid())
    assert start is not None
    assert start % 1e9 == pytest.approx(ticks / os.sysconf("SC_CLK_TCK"), abs=0.005)
    assert ticks / os.sysconf("SC_CLK_TCK") <= time.clock_gettime(time.CLOCK_BOOTTIME)
    assert start >= 1e9 or start % 1e9 == start  # a machine's start has a number of its own


def test_a_dead_and_a_zombie_process_are_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = started(child.pid)
    assert start is not None
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, not yet reaped
    assert started(child.pid) is None
    child.communicate()
    assert not alive(child.pid, start)


@pytest.mark.skipif(sys.platform != "linux", reason="affinity masks are Linux's")
def test_cores_obey_the_affinity_mask() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert len(before) == cores()
