"""What can be seen of a command from outside: files, processes, Prefect's database."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

FINAL = ("curve", "law", "ranking", "checks")
MARK = "KILL_CAMPAIGN"  # environment variable that every process of a sweep inherits

Identity = tuple[int, int, str]  # inode, time of writing and SHA-256 of a file


def final_tables(artifacts: Path) -> dict[str, bytes]:
    """The bytes of the final tables, by stage, key and name."""
    return {
        path.relative_to(artifacts).as_posix(): path.read_bytes()
        for stage in FINAL
        for path in (artifacts / stage).rglob("*.parquet")
    }


def artefacts(artifacts: Path) -> list[Path]:
    """The folders of all artefacts."""
    return [path.parent for path in artifacts.glob(f"[a-z]*/{'[0-9a-f]' * 32}/manifest.json")]


def seals(artefact: Path) -> Iterator[tuple[Path, Identity]]:
    """What tells each file of an artefact from one that is written again."""
    for path in artefact.rglob("*"):
        if path.is_file():
            yield path, (*identity(path), hashlib.sha256(path.read_bytes()).hexdigest())


def leftovers(artifacts: Path) -> list[str]:
    """Locks, drafts, leases, and runs that the Prefect pages show as unfinished."""
    files = [p.name for sub in (".tmp", ".locks", ".partial") for p in (artifacts / sub).glob("*")]
    files += [p.name for p in (artifacts / ".users").glob("*@*")]
    files += [p.name for sub in (".status", "prefect") for p in (artifacts / sub).glob("*.new")]
    with sqlite3.connect(artifacts / "prefect" / "prefect.db") as database:
        unfinished = "state_type IN ('RUNNING', 'PENDING', 'SCHEDULED', 'CANCELLING')"
        rows = database.execute(
            f"SELECT name FROM task_run WHERE {unfinished} "
            f"UNION ALL SELECT name FROM flow_run WHERE {unfinished}"
        ).fetchall()
    return [*files, *(name for (name,) in rows)]


def processes(mark: str) -> list[str]:
    """Command lines of what runs with ``mark`` in its environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark:
                found.append(" ".join(process.cmdline())[:200])
    return found


def identity(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_ino, state.st_mtime_ns
