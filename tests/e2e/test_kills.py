"""Whatever is killed, whenever and how: the same command goes on, and ends as if nothing had been.

The full version kills 52 times in a sweep of a thousand cells; ``make test`` has a short one.
"""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import lensllm
from tests.e2e.kills import VICTIMS, Mlflow, Siege, final_tables, leftovers
from tests.stress import NAME, write_pipeline

pytestmark = pytest.mark.slow


@pytest.fixture
def mlflow(tmp_path: Path) -> Iterator[Mlflow]:
    server = Mlflow(tmp_path)
    yield server
    server.kill(signal.SIGKILL)


@pytest.mark.parametrize(
    ("grid", "kills"),
    [
        pytest.param((3, 4, 4), 4, id="short"),
        pytest.param((5, 5, 4), 12, id="every pair", marks=pytest.mark.full),
        pytest.param((10, 10, 10), 52, id="full", marks=pytest.mark.full),
    ],
)
def test_a_sweep_under_fire_ends_as_if_nothing_had_been(
    tmp_path: Path, mlflow: Mlflow, grid: tuple[int, int, int], kills: int
) -> None:
    file = write_pipeline(tmp_path / "project", *grid)
    calm = tmp_path / "calm"
    done = lensllm("run", NAME, "--file", file, "--artifacts", calm, "--set",
                   "tracking.enabled=false", timeout=900)  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = final_tables(calm)

    cells = grid[0] * grid[1] * grid[2]
    siege = Siege(file, tmp_path / "artifacts", mlflow, seed=kills)
    siege.endure(kills, cells)

    assert sum(siege.killed.values()) >= 0.9 * kills
    assert {victim for victim, _ in siege.killed} == set(VICTIMS)
    found = final_tables(siege.artifacts)
    assert expected == {name: found.get(name) for name in expected}
    assert len(siege.kept) == cells
    assert set(siege.computed.values()) == {1}
    again = lensllm("run", NAME, "--file", file, "--artifacts", siege.artifacts, "--set",
                    f"tracking.uri={mlflow.uri}")  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert "This run computed 0 artefacts" in again.stdout
    assert siege.tracked() == {
        **{(path.parent.name, "FINISHED"): 1 for path in siege.kept},
        ("", "FINISHED"): 1,  # the parent
    }
    assert leftovers(siege.artifacts) == []
