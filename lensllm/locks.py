"""Kernel locks on files, and what to do on a file system that has none.

Some network file systems refuse ``flock``. Nothing here is wrong without it, only done twice: so
there a lock counts as taken, and the store says once that it is not one.
"""

from __future__ import annotations

import errno
import fcntl
import tempfile
from pathlib import Path
from typing import IO

# What file systems answer that have no locks, or whose lock server is away.
_NONE = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


def take(file: int | IO[str], how: int) -> bool:
    """``fcntl.flock``; False where the file system has no locks.

    Raises ``BlockingIOError`` when ``how`` has LOCK_NB and somebody else holds it.
    """
    try:
        fcntl.flock(file, how)
    except OSError as error:
        if error.errno in _NONE:
            return False
        raise
    return True


def supported(folder: Path) -> bool:
    """Whether files in ``folder``, which is made if need be, can be locked."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile("a", dir=folder) as probe:
        return take(probe, fcntl.LOCK_SH)
