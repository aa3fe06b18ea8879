"""Leases: nobody deletes from a folder that somebody uses, and none outlives its holder."""

import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lensllm.core.errors import StoreError
from lensllm.store.artifacts import Recipe, Ref, Store

_OTHER = """
import sys, time
from pathlib import Path
from lensllm.store import Recipe, Store

store = Store(Path(sys.argv[1]))

def say(_=None):
    print("there", flush=True)
    sys.stdin.readline()

def build(folder):
    (folder / "note.txt").write_text("theirs")
    say()

match sys.argv[2]:
    case "using":
        with store.using("a run of demo"):
            say()
    case "alone":
        with store.alone("lensllm gc"):
            say()
    case "making":
        store.make(Recipe("s", 1), build)
print(time.time())
"""

Start = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "artifacts")
    store.prepare()
    return store


@pytest.fixture
def other(store: Store) -> Iterator[Start]:
    """Starts another process on the store, which ends at a line."""
    processes = []

    def start(what: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", _OTHER, str(store.root), what],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def note(folder: Path) -> None:
    (folder / "note.txt").write_text("ours")


def test_who_uses_a_store_is_named_to_who_would_delete(store: Store, other: Start) -> None:
    first, second = other("using"), other("using")
    for last in (first, second):
        with (
            pytest.raises(
                StoreError, match=r"'a run of demo' \(process \d+ of .*nothing was delet"
            ),
            store.alone(),
        ):
            pytest.fail("in use")
        last.communicate("end\n")
    with store.alone():
        pass


def test_a_lease_dies_with_its_holder(store: Store, other: Start) -> None:
    theirs = other("using")
    theirs.send_signal(signal.SIGKILL)
    theirs.wait()
    with store.alone():
        pass
    assert [p.name for p in (store.root / ".users").glob("*@*")]
    store.prepare()
    assert [p.name for p in (store.root / ".users").iterdir()] == ["lock"]


def test_who_makes_an_artefact_uses_the_store_without_asking(store: Store, other: Start) -> None:
    theirs = other("making")
    with pytest.raises(StoreError, match="another process uses it"), store.alone():
        pytest.fail("in use")
    theirs.communicate("end\n")
    with store.alone():
        store.remove(Recipe("s", 1).ref)


@pytest.mark.parametrize("how", ["using", "make"])
def test_who_comes_while_somebody_deletes_waits(store: Store, other: Start, caplog, how) -> None:
    theirs, entered = other("alone"), list[float]()

    def come() -> None:
        if how == "make":
            store.make(Recipe("s", 2), note)
            entered.append(time.time())
        else:
            with store.using():
                entered.append(time.time())

    with caplog.at_level(logging.WARNING):
        coming = threading.Thread(target=come)
        coming.start()
        coming.join(0.5)
        assert entered == []
        said, _ = theirs.communicate("end\n")
        coming.join(20)
    assert float(said) - 1 < entered[0]
    assert "'lensllm gc' (process" in caplog.text


def test_a_process_has_one_lease(store: Store, other: Start) -> None:
    with store.using():
        with pytest.raises(StoreError, match="a program"), store.alone():
            pytest.fail("in use by ourselves")
        with store.using("again"):
            pass
        with pytest.raises(StoreError), store.alone():
            pytest.fail("still in use")
    with store.alone():
        assert not store.make(Recipe("s", 1), note)  # what gc has to plan by
        with store.using():
            store.remove(Recipe("s", 1).ref)
    theirs = other("using")
    theirs.communicate("end\n")
    assert not store.has(Ref("s", Recipe("s", 1).ref.key))
