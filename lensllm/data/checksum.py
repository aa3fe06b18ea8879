"""Checksums of files, computed once per process and state of a file."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

from lensllm.core.errors import DataError


def of_file(path: Path) -> str:
    """The SHA-256 of the content."""
    state = path.stat()
    return _of(path, state.st_size, state.st_mtime_ns)


def of_files(paths: Sequence[Path], root: Path) -> str:
    """Of all contents and their names below ``root``."""
    total = hashlib.sha256()
    for path in paths:
        total.update(f"{path.relative_to(root).as_posix()}\0{of_file(path)}\n".encode())
    return total.hexdigest()


@functools.cache
def _of(path: Path, size: int, changed_ns: int) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
