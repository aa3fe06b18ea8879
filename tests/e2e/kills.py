"""Kill campaign: small sweeps, each killed once at every moment of it, which end as if undisturbed.

    python -m tests.e2e.kills         the whole campaign, half an hour on two cores
    python -m tests.e2e.kills 3 7 2   three sweeps of it, with seed 7, two at once

A moment is recognised from outside, by locks, drafts, published files, printed lines and MLflow's
runs; a kill counts when its victim was alive. A moment that passed unnoticed is tried again in the
next sweep. Every third sweep has two commands at once on its artifacts folder.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.e2e.conftest import lensllm
from tests.e2e.kill_counts import Counts
from tests.e2e.kill_plan import Plan
from tests.e2e.siege import Siege
from tests.e2e.victims import Mlflow
from tests.stress import NAME, write_pipeline

GRID = (2, 4, 2)  # candidates, sizes and seeds of a sweep
SWEEPS = 24


def campaign(folder: Path, sweeps: int = SWEEPS, seed: int = 0, at_once: int = 2) -> Counts:
    """So many sweeps, ``at_once`` at a time."""
    file = write_pipeline(folder / "project", *GRID)
    calm, plan, total = undisturbed(file, folder / "calm"), Plan(seed), Counts()

    def one(number: int) -> None:
        place = folder / f"sweep-{number:02}"
        place.mkdir()
        mlflow = Mlflow(place)
        siege = Siege(file, place, mlflow, seed + number, calm, commands=1 + (number % 3 == 2))
        try:
            siege.endure(plan)
            siege.end()
        except Exception as error:
            siege.counts.odd.append(f"{place}: {type(error).__name__}: {error}")
        finally:
            mlflow.kill(signal.SIGKILL)
        total.add(siege.counts)
        print(f"{time.strftime('%X')} {place.name}: {siege.counts.killed.total()} kills, "
              f"{siege.counts.commands} commands, {siege.counts.faults}", flush=True)  # fmt: skip

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, range(sweeps)))
    return total


def undisturbed(file: Path, artifacts: Path) -> Path:
    """The artifacts folder of a run that nobody disturbs."""
    done = lensllm("run", NAME, "--file", file, "--artifacts", artifacts, "--set",
                   "tracking.enabled=false")  # fmt: skip
    assert done.returncode == 0, done.stderr
    return artifacts


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        counts = campaign(Path(place), *map(int, sys.argv[1:]))
    print(counts)
    sys.exit(bool(counts.faults or counts.late))
