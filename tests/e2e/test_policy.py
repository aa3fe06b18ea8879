"""A sweep that drops candidates, killed in the middle."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from tests.e2e.conftest import COMMAND, ROOT, environment, lensllm
from tests.waiting import HANG_SECONDS, wait

pytestmark = pytest.mark.slow

FINAL = ("curve", "decision", "law", "ranking", "checks")
# 2 … 32 for all three, 64 for two of them; one is left before 128
HALVING = (
    *("--set", "sweep.policy=halving", "--set", "sweep.min=2", "--set", "sweep.max=128"),
    *("--set", "sweep.target=160", "--set", "sweep.measure_target=false"),
)


def tables(artifacts: Path) -> dict[str, bytes]:
    return {
        path.relative_to(artifacts).as_posix(): path.read_bytes()
        for stage in FINAL
        for path in (artifacts / stage).rglob("*.parquet")
    }


def cells(artifacts: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in artifacts.glob("finetune/*/manifest.json")}


@pytest.fixture(scope="module")
def halved(smoke: tuple[Path, dict], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """An uninterrupted run: its artifacts folder and its JSON."""
    artifacts = tmp_path_factory.mktemp("halved")
    for stage in ("dataset", "sample", "pretext", "tokenizer", "pretrain", "tokens"):
        shutil.copytree(smoke[0] / stage, artifacts / stage)
    done = lensllm("run", "smoke", *HALVING, "--artifacts", artifacts, "--json")
    assert done.returncode == 0, done.stderr
    return artifacts, json.loads(done.stdout)


@pytest.mark.full
def test_half_of_the_candidates_get_each_larger_subset(halved: tuple[Path, Any]):
    artifacts, said = halved
    assert [row["budget"] for row in said["decisions"]] == [32] * 3 + [64] * 2
    assert [bool(row["dropped"]) for row in said["decisions"]].count(True) == 2
    assert said["decisions"][-1]["stop"] == "one candidate is left"
    assert len(said["ranking"]) == 3  # the dropped are ranked from what they have
    trained = pd.concat(pd.read_parquet(p.with_name("cell.parquet")) for p in cells(artifacts))
    assert dict(trained["size"].value_counts()) == {0: 3, 2: 3, 4: 3, 8: 3, 16: 3, 32: 3, 64: 2}
    status = json.loads(
        lensllm("status", "smoke", *HALVING, "--artifacts", artifacts, "--json").stdout
    )
    dropped = {(c["candidate"], c["size"]) for c in status["cells"] if c["state"] == "dropped"}
    assert len(dropped) == 1 + 3
    kept = {row["candidate"] for row in said["decisions"] if row["budget"] == 64}
    assert kept.isdisjoint(name for name, size in dropped if size == 64)


def test_the_pages_show_whom_a_round_dropped(halved: tuple[Path, Any]):
    artifacts, said = halved
    with sqlite3.connect(artifacts / "prefect" / "prefect.db") as database:
        shown = database.execute(
            "SELECT data, description FROM artifact WHERE key = 'sweep' ORDER BY created"
        ).fetchall()
    assert len(shown) == 2
    dropped = [row["candidate"] for row in said["decisions"] if row["dropped"]]
    assert [shown[0][0].count(name) for name in dropped] == [1, 0]
    assert [shown[1][0].count(name) for name in dropped] == [1, 1]
    assert shown[1][1] == "Stopped: one candidate is left."
    page = Path(said["report"]).read_text(encoding="utf-8")
    assert all(row["dropped"] in page for row in said["decisions"])


@pytest.mark.full
def test_a_killed_sweep_decides_the_same_and_computes_nothing_twice(
    halved: tuple[Path, Any], pretrained: Path
):
    command = subprocess.Popen(
        [*COMMAND, "run", "smoke", *HALVING, "--artifacts", str(pretrained)],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait(lambda: list(pretrained.glob("decision/*/manifest.json")), "a decision")
    family = psutil.Process(command.pid).children(recursive=True)
    os.kill(command.pid, signal.SIGKILL)
    command.wait()
    _, alive = psutil.wait_procs(family, timeout=HANG_SECONDS)
    assert alive == []
    kept = cells(pretrained)
    assert 18 <= len(kept) < 20

    done = lensllm("run", "smoke", *HALVING, "--artifacts", pretrained, "--json")
    assert done.returncode == 0, done.stderr
    assert kept.items() <= cells(pretrained).items()
    assert tables(halved[0]) == tables(pretrained)
    said = json.loads(done.stdout)
    assert [said[name] for name in ("ranking", "decisions")] == [
        halved[1][name] for name in ("ranking", "decisions")
    ]


@pytest.mark.full
def test_a_run_of_all_in_the_same_folder_reuses_the_cells(halved: tuple[Path, Any]):
    """And its ranking, of more cells, is another one."""
    artifacts, said = halved
    before = cells(artifacts)
    everything = (*HALVING, "--set", "sweep.policy=all")
    planned = json.loads(
        lensllm("plan", "smoke", *everything, "--artifacts", artifacts, "--json").stdout
    )
    assert sum(c["cached"] for c in planned["candidates"]) == len(before)
    assert planned["stages"]["finetune"]["artefacts"] == len(before) + 4
    again = lensllm("report", "smoke", *HALVING, "--artifacts", artifacts, "--json")
    assert json.loads(again.stdout)["ranking"] == said["ranking"]
    other = lensllm("report", "smoke", *everything, "--artifacts", artifacts)
    assert other.returncode == 2
