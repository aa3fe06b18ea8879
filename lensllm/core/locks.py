"""Kernel locks on files; on a network file system that has none a lock counts as taken."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import IO

# Errors of file systems that have no locks, or whose lock server is away.
_NONE = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
# Errors of opening where a link, a folder or a socket has the file's name.
_STRAY = {errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO, errno.EOPNOTSUPP}


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


def open_file(path: Path) -> int:
    """Open the lock file ``path``, made if need be, with permissions by the umask.

    Anything else that has its name is removed; a link is not followed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        except OSError as error:
            if error.errno not in _STRAY:
                raise
        else:
            if stat.S_ISREG(os.fstat(handle).st_mode):
                return handle
            os.close(handle)
        remove(path)


def remove(path: Path) -> None:
    """Remove whatever is called ``path``, if anything is: a folder with its content, a link
    without what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def supported(folder: Path) -> bool:
    """True if files in ``folder``, which is created if missing, can be locked."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile("a", dir=folder) as probe:
        return take(probe, fcntl.LOCK_SH)
