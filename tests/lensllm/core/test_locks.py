"""A file system without locks: said once, and still nothing is lost or half there."""

import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lensllm.core import locks
from lensllm.core.errors import StoreError
from lensllm.store.artifacts import Recipe, Store
from tests.waiting import HANG_SECONDS

# Another command on the folder, in the middle of making the same artefact.
_OTHER = """
import fcntl, sys, time
from pathlib import Path

def refuse(*_):
    raise OSError(37, "No locks available")

fcntl.flock = refuse
from lensllm.store import Recipe, Store

def build(folder):
    (folder / "note.txt").write_text("theirs")
    print("building", flush=True)
    sys.stdin.readline()

print(Store(Path(sys.argv[1])).make(Recipe("s", 1), build))
"""


@pytest.fixture
def lockless(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)


def other(root: Path) -> subprocess.Popen[str]:
    started = subprocess.Popen(
        [sys.executable, "-c", _OTHER, str(root)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert started.stdout is not None
    assert started.stdout.readline() == "building\n"
    return started


def note(folder: Path) -> None:
    (folder / "note.txt").write_text("ours")


def drafts(root: Path) -> list[Path]:
    return list((root / ".tmp").iterdir())


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_what_says_that_there_are_no_locks(tmp_path: Path, monkeypatch, code: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    assert locks.supported(tmp_path)
    monkeypatch.setattr(fcntl, "flock", refuse)
    assert not locks.supported(tmp_path)


def test_a_lock_that_is_taken_or_broken_is_not_taken_for_none(tmp_path: Path, monkeypatch) -> None:
    with (tmp_path / "a").open("w") as first, (tmp_path / "a").open("w") as second:
        assert locks.take(first, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            locks.take(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        first.close()
        with pytest.raises(ValueError, match="closed"):
            locks.take(first, fcntl.LOCK_EX)


@pytest.mark.usefixtures("lockless")
def test_two_makers_without_locks_both_succeed_and_the_first_counts(tmp_path: Path) -> None:
    theirs, recipe = other(tmp_path), Recipe("s", 1)
    store = Store(tmp_path)
    assert not store.make(recipe, note)
    said, _ = theirs.communicate("go on\n")
    assert (theirs.returncode, said) == (0, "False\n")
    assert store.file(recipe.ref, "note.txt").read_text() == "ours"
    assert Store(tmp_path).has(recipe.ref)
    assert drafts(tmp_path) == []


@pytest.mark.usefixtures("lockless")
def test_it_is_said_at_the_start_and_only_drafts_of_the_dead_are_collected(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = other(tmp_path)
    with caplog.at_level(logging.WARNING):
        Store(tmp_path).prepare()
        assert not Store(tmp_path).make(Recipe("s", 2), note)
    assert caplog.text.count("its file system has no locks") == 1
    assert len(drafts(tmp_path)) == 1
    theirs.send_signal(signal.SIGKILL)
    theirs.communicate()
    deadline = time.monotonic() + HANG_SECONDS
    while drafts(tmp_path) and time.monotonic() < deadline:
        Store(tmp_path).prepare()
    assert drafts(tmp_path) == []


@pytest.mark.usefixtures("lockless")
def test_without_locks_nobody_deletes_because_nobody_can_tell(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    with store.using(), store.using():
        pass
    with pytest.raises(StoreError, match="has no locks, so nobody can tell"), store.alone():
        pytest.fail("not alone for certain")
    with store.using():
        assert not store.make(Recipe("s", 1), note)
