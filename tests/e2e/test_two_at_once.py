"""Two commands on one artifacts folder: they share the work, and survive each other."""

import re
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import COMMAND, ROOT, environment, lensllm
from tests.e2e.observe import final_tables
from tests.stress import NAME, write_pipeline
from tests.waiting import HANG_SECONDS, wait

pytestmark = pytest.mark.slow

CELLS = 3 * 4 * 4
# Found by every Python process of a command: a file system that has no locks, as some networks'.
_LOCKLESS = """
import fcntl, os
take = fcntl.flock

def flock(file, how):
    number = file if isinstance(file, int) else file.fileno()
    if os.readlink(f"/proc/self/fd/{number}").startswith(os.environ["LOCKLESS"]):
        raise OSError(37, "No locks available")
    take(file, how)

fcntl.flock = flock
"""

Start = Callable[[str], subprocess.Popen[bytes]]


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """The pipeline's file, and the final tables of an undisturbed run."""
    folder = tmp_path_factory.mktemp("two")
    file = write_pipeline(folder / "project", 3, 4, 4, tracking={"enabled": False})
    done = lensllm("run", NAME, "--file", file, "--artifacts", folder / "calm")
    assert done.returncode == 0, done.stderr
    return file, final_tables(folder / "calm")


def starter(file: Path, artifacts: Path, **more: str) -> Start:
    def start(name: str) -> subprocess.Popen[bytes]:
        with (artifacts.parent / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [*COMMAND, "run", NAME, "--file", str(file), "--artifacts", str(artifacts)],
                cwd=ROOT,
                env={**environment(), **more},
                stdout=log,
                stderr=log,
            )

    return start


def computed(folder: Path) -> dict[str, Counter[str]]:
    """The cells that each command says it computed."""
    pattern = re.compile(r"^\[\d+/\d+\] (finetune .*) \([\d.]+ s\)", re.MULTILINE)
    return {p.stem: Counter(pattern.findall(p.read_text())) for p in folder.glob("*.log")}


def cells(artifacts: Path) -> int:
    return len(list(artifacts.glob("finetune/*/manifest.json")))


@pytest.mark.full
def test_one_is_killed_and_the_other_goes_on(
    calm: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    file, expected = calm
    artifacts = tmp_path / "artifacts"
    start = starter(file, artifacts)
    first, second = start("first"), start("second")
    wait(lambda: cells(artifacts) >= CELLS // 4, "a quarter")
    first.send_signal(signal.SIGKILL)
    first.wait()
    third = start("third")
    assert (second.wait(HANG_SECONDS), third.wait(HANG_SECONDS)) == (0, 0)

    by = computed(tmp_path)
    assert by["second"]
    assert max(sum(by.values(), Counter()).values()) == 1
    assert cells(artifacts) == CELLS
    assert expected == final_tables(artifacts)
    assert list((artifacts / ".locks").iterdir()) == []


@pytest.mark.full
def test_without_locks_it_is_said_and_both_end_with_the_same(
    calm: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    file, expected = calm
    (tmp_path / "sitecustomize.py").write_text(_LOCKLESS)
    artifacts = tmp_path / "artifacts"
    start = starter(
        file, artifacts, LOCKLESS=str(artifacts), PYTHONPATH=f"{tmp_path}:{ROOT}",
        TMPDIR=str(tmp_path),
    )  # fmt: skip
    first, second = start("first"), start("second")
    assert (first.wait(HANG_SECONDS), second.wait(HANG_SECONDS)) == (0, 0)
    for name in ("first", "second"):
        said = (tmp_path / f"{name}.log").read_text()
        assert said.count("its file system has no locks") == 1
    assert expected == final_tables(artifacts)
    assert [p.name for p in (artifacts / ".tmp").iterdir()] == []
