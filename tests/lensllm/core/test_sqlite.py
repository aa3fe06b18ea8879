"""Damaged SQLite files are told from whole, missing and busy ones."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from lensllm.core.sqlite import fault, set_damaged_aside


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "some.db"
    with closing(sqlite3.connect(path)) as opened, opened:
        opened.execute("CREATE TABLE t (x TEXT)")
        opened.executemany("INSERT INTO t VALUES (?)", [("word " * 50,)] * 500)
    return path


def test_a_whole_or_missing_file_stays(database: Path) -> None:
    before = database.read_bytes()
    set_damaged_aside(database)
    set_damaged_aside(database.with_name("none.db"))
    assert [p.name for p in database.parent.iterdir()] == ["some.db"]
    assert before == database.read_bytes()


def test_a_busy_file_is_not_damaged(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        connect = sqlite3.connect
        monkeypatch.setattr(sqlite3, "connect", lambda path, timeout: connect(path, timeout=0))
        assert fault(database) == ""


@pytest.mark.parametrize("damage", ["head", "page", "truncated"])
def test_a_damaged_file_is_named_and_set_aside(
    database: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    content = bytearray(database.read_bytes())
    match damage:
        case "head":
            content[:16] = b"x" * 16
        case "page":
            content[4096:8192] = b"\xff" * 4096
        case "truncated":
            del content[len(content) // 2 :]
    database.write_bytes(content)
    database.with_name("some.db-wal").write_bytes(b"")
    set_damaged_aside(database)
    assert [p.name for p in database.parent.iterdir()] == ["some.db.damaged"]
    assert f"{database} is damaged (" in caplog.text
    assert bytes(content) == database.with_name("some.db.damaged").read_bytes()
