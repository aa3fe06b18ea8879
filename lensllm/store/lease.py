"""Leases on an artifacts folder: a command that uses it shares one, deleting needs the only one.

    .users/lock                   locked while the holder lives; the kernel frees it after kill -9
    .users/<host>@<pid>@<start>   what the holder is, for error sentences

A process has at most one lease on a folder; asking again within it gives the same one.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lensllm.core import locks
from lensllm.core.errors import StoreError
from lensllm.core.processes import is_signature_of_dead, signature

log = logging.getLogger("lensllm.store.artifacts")
FOLDER = ".users"


@dataclass
class _Lease:
    handle: int  # of the lock file
    note: Path
    contexts: int = 0  # of this process that rely on it


_held: dict[Path, _Lease] = {}  # by folder
_turn = threading.Lock()


@contextmanager
def shared(root: Path, holder: str = "") -> Iterator[None]:
    """Within the context nobody deletes from ``root``; waits while somebody does.

    ``holder`` is named to others; "" leaves no note, for leases of a moment. On a file system
    without locks the lease holds nobody off, and so ``exclusive`` is refused there.
    """
    root = root.resolve()
    with _turn:
        lease = _held.get(root) or _take(root, holder, _share)
        lease.contexts += 1
    with _released(root, lease):
        yield


@contextmanager
def exclusive(root: Path, holder: str) -> Iterator[None]:
    """Within the context no other process uses ``root``; one that starts waits for its end.

    Raises ``StoreError`` at once when somebody uses the folder, or when nobody can tell.
    """
    root = root.resolve()
    with _turn:
        if root in _held:
            raise _in_use(root)
        lease = _take(root, holder, _exclude)
        lease.contexts += 1
    with _released(root, lease):
        yield


def _take(root: Path, holder: str, lock: Callable[[int, Path], None]) -> _Lease:
    handle = locks.open_file(root / FOLDER / "lock")
    try:
        lock(handle, root)
        note = root / FOLDER / signature()
        if holder:
            locks.remove(note)
            note.write_text(holder, encoding="utf-8")
    except BaseException:
        os.close(handle)
        raise
    lease = _held[root] = _Lease(handle, note)
    return lease


def _share(handle: int, root: Path) -> None:
    try:
        locks.take(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        log.warning("artifacts folder %s: %s deletes from it; waiting", root, _user(root))
        locks.take(handle, fcntl.LOCK_SH)


def _exclude(handle: int, root: Path) -> None:
    try:
        if locks.take(handle, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return
    except BlockingIOError:
        raise _in_use(root) from None
    raise StoreError(
        f"artifacts folder {root}: its file system has no locks, so nobody can tell whether a "
        "command uses it, and nothing was deleted; when none does, delete by hand the folders "
        "<stage>/<key> that the list without this option names"
    )


@contextmanager
def _released(root: Path, lease: _Lease) -> Iterator[None]:
    try:
        yield
    finally:
        with _turn:
            lease.contexts -= 1
            if not lease.contexts:
                del _held[root]
                lease.note.unlink(missing_ok=True)
                os.close(lease.handle)


def collect(root: Path) -> None:
    """Remove the notes of dead processes."""
    for note in (root / FOLDER).iterdir():
        if is_signature_of_dead(note.name):
            locks.remove(note)


def _in_use(root: Path) -> StoreError:
    return StoreError(
        f"artifacts folder {root}: {_user(root)} uses it, so nothing was deleted; give this "
        "command again when that has ended"
    )


def _user(root: Path) -> str:
    """Somebody who holds a lease, as far as notes tell."""
    for note in sorted((root / FOLDER).glob("*@*@*")):
        with suppress(OSError, ValueError):  # it may go meanwhile
            if not is_signature_of_dead(note.name) and note.is_file():
                host, pid, _ = note.name.rsplit("@", 2)
                return f"'{note.read_text(encoding='utf-8')}' (process {pid} of {host})"
    return "another process"
