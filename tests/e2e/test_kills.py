"""Whatever is killed, whenever and how: the same command goes on, and ends as if nothing had been.

The campaign, ``python -m tests.e2e.kills``, kills more than 200 times; ``make test`` kills one
command, in ``test_smoke.py``.
"""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.kill_plan import MOMENTS, Plan
from tests.e2e.kills import GRID, campaign, undisturbed
from tests.e2e.siege import Siege
from tests.e2e.victims import Mlflow
from tests.stress import write_pipeline

pytestmark = pytest.mark.slow


@pytest.fixture
def mlflow(tmp_path: Path) -> Iterator[Mlflow]:
    server = Mlflow(tmp_path)
    yield server
    server.kill(signal.SIGKILL)


SHORT = {
    "training": ("worker", signal.SIGKILL),
    "publishing": ("command", signal.SIGKILL),
    "ranking": ("Prefect server", signal.SIGKILL),
    "MLflow": ("MLflow server", signal.SIGTERM),
    "shutdown": ("server, then command", signal.SIGINT),
    "imports": ("command", signal.SIGTERM),
}


class _Short(Plan):
    """One victim and one signal for each moment."""

    def take(self, moment: str) -> tuple[str, signal.Signals]:
        return SHORT[moment]


@pytest.mark.full
def test_a_sweep_that_is_killed_again_and_again_ends_as_if_nothing_had_been(
    tmp_path: Path, mlflow: Mlflow
) -> None:
    file = write_pipeline(tmp_path / "project", *GRID)
    calm = undisturbed(file, tmp_path / "calm")
    siege = Siege(file, tmp_path, mlflow, 0, calm)
    siege.endure(_Short(0), tuple(SHORT))
    counts = siege.end()
    assert counts.faults == []
    assert counts.killed.total() >= len(SHORT) - 2  # a moment may pass unnoticed


@pytest.mark.full
def test_two_hundred_kills(tmp_path: Path) -> None:
    counts = campaign(tmp_path)
    print(f"\n{counts}")
    assert counts.faults == []
    assert counts.killed.total() >= 200
    assert {moment for moment, _, _ in counts.killed} == set(MOMENTS)
