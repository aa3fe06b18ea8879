"""SQLite files that hold what can be made again: a damaged one is set aside, not repaired."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

log = logging.getLogger("lensllm.core.sqlite")


def fault(database: Path) -> str:
    """The damage of the file, "" if none or if another process keeps us from looking."""
    try:
        with closing(sqlite3.connect(database, timeout=5)) as opened:
            said = str(opened.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.OperationalError:
        return ""
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if said == "ok" else " ".join(said.split())


def set_damaged_aside(database: Path) -> None:
    """Rename a damaged file, with a warning, so that whoever comes next begins a new one."""
    if not database.exists() or not (found := fault(database)):
        return
    aside = database.with_name(f"{database.name}.damaged")
    database.replace(aside)
    for suffix in ("-wal", "-shm"):  # they belong to the old file and would spoil a new one
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    log.warning(
        "%s is damaged (%s) and was renamed to %s; a new one is begun. Results are elsewhere: "
        "none is lost.",
        database,
        found,
        aside.name,
    )
