"""Processes of this machine: who may outlive whom, who is still alive, on how many cores."""

import ctypes
import functools
import os
import signal
import socket
import sys
import threading
import time
import zlib
from pathlib import Path

import psutil

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_WATCH_SECONDS = 0.5  # how late the portable watchdog may notice; Linux notices at once

# How precisely the kernel tells when a process started, with room for the rounding of a note.
_TICK_SECONDS = 0.02
_LONGEST_UPTIME_SECONDS = 1e9  # 30 years: apart from each other by more than any uptime


def die_with_parent(parent: int) -> None:
    """Have this process killed as soon as its parent is gone, even by ``kill -9``.

    On Linux the kernel does it (``prctl(PR_SET_PDEATHSIG, SIGKILL)``), within a long native call
    too. It watches the THREAD that started us: start such children from a thread that lives as long
    as they should. Elsewhere a daemon thread watches the parent's process number. When ``parent``,
    the number as the parent knows it, is dead already, this process exits at once.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    else:
        threading.Thread(target=_watch, args=(parent,), name="die-with-parent", daemon=True).start()
    if os.getppid() != parent:
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)


def started(pid: int) -> float | None:
    """The start of process ``pid`` in seconds; None if it is no more (or a zombie).

    On Linux since the machine's start, plus a number drawn from that start: a clock that jumps
    changes nothing, and a note from before a restart fits no later process. Elsewhere since 1970.
    """
    if sys.platform != "linux":
        try:
            process = psutil.Process(pid)
            return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
        except psutil.Error:
            return None
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
    ticks = int(fields[18])  # proc(5): starttime is the 22nd field, state the third
    return None if state in "ZX" else _boot() + ticks / os.sysconf("SC_CLK_TCK")


@functools.cache
def _boot() -> float:
    """A number that each start of the machine has for itself."""
    name = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    return zlib.crc32(name) % 10_000 * _LONGEST_UPTIME_SECONDS


def alive(pid: int, start: float) -> bool:
    """True if the process with the number ``pid`` that began at ``start`` still runs."""
    now = started(pid)
    return now is not None and abs(now - start) < _TICK_SECONDS


def signature() -> str:
    """``host@number@start``: a name for this process that no other has."""
    return f"{socket.gethostname()}@{os.getpid()}@{started(os.getpid()) or 0.0:.2f}"


def is_signature_of_dead(name: str) -> bool:
    """True if ``name`` ends in the signature of a process of this machine that has ended."""
    *_, host, pid, start = ["", "", *name.rsplit("@", 3)]
    if host != socket.gethostname():
        return False
    try:
        return not alive(int(pid), float(start))
    except ValueError:  # a stray name
        return False


def cores() -> int:
    """Processor cores this process may use: those of its affinity mask where there is one."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
