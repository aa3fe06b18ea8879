"""``lensllm ablate`` end to end: real cells at every point, once, whatever comes between."""

import json
import shutil
import signal
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from mlflow import MlflowClient

from tests.e2e.conftest import COMMAND, ROOT, environment, lensllm
from tests.stress import NAME, write_pipeline
from tests.waiting import HANG_SECONDS, wait

pytestmark = pytest.mark.slow

# τ changes no cell; with a learning rate of 1e30 every cell diverges
OVER = ("--over", "law.tau=0.5", "--over", "finetune.learning_rate=5e-4,1e30")
FEW = (
    *("--set", "sweep.measure_target=false", "--set", "sweep.zero_shot=false"),
    *("--set", "kernel.enabled=false", "--set", "curvature.sizes=[8]"),
)
POINTS = 6


def cells(artifacts: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in artifacts.glob("finetune/*/manifest.json")}


def tables(artifacts: Path) -> dict[str, bytes]:
    return {
        path.relative_to(artifacts).as_posix(): path.read_bytes()
        for stage in ("curve", "law", "ranking", "ablation")
        for path in (artifacts / stage).rglob("*.parquet")
    }


def test_a_setting_that_touches_no_cell_trains_each_once(tmp_path: Path):
    file = write_pipeline(tmp_path / "project", 3, 4, 1, tracking={"enabled": False})
    artifacts = tmp_path / "artifacts"
    over = ("--over", "law.tau=0.5,8")
    done = lensllm("ablate", NAME, *over, "--file", file, "--artifacts", artifacts, "--json")
    assert done.returncode == 0, done.stderr
    assert "3 points, 12 different cells, 12 to train." in done.stderr
    said = json.loads(done.stdout)
    assert [point["settings"] for point in said["points"]] == [
        {"law.tau": tau} for tau in (5.0, 0.5, 8.0)
    ]
    assert len(cells(artifacts)) == 12
    page = (artifacts / "reports" / f"{NAME}-ablation" / "ablation.html").read_text("utf-8")
    assert said["points"][0]["choice"] in page


@pytest.fixture(scope="module")
def ablated(smoke: tuple[Path, dict], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """An ablation that was killed once: its artifacts folder and its JSON."""
    artifacts = tmp_path_factory.mktemp("ablated")
    for stage in ("dataset", "sample", "pretext", "tokenizer", "pretrain", "tokens"):
        shutil.copytree(smoke[0] / stage, artifacts / stage)
    command = subprocess.Popen(
        [*COMMAND, "ablate", "smoke", *OVER, *FEW, "--artifacts", str(artifacts)],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait(lambda: len(cells(artifacts)) >= 15, "the pipeline's own cells and some more")
    family = psutil.Process(command.pid).children(recursive=True)
    command.send_signal(signal.SIGINT)
    said, _ = command.communicate(timeout=HANG_SECONDS)
    assert command.returncode == 130
    assert "go on with lensllm ablate smoke --over" in said
    assert psutil.wait_procs(family, timeout=HANG_SECONDS)[1] == []
    kept = cells(artifacts)

    done = lensllm("ablate", "smoke", *OVER, *FEW, "--artifacts", artifacts, "--json")
    assert done.returncode == 1, done.stderr  # some points failed
    assert kept.items() <= cells(artifacts).items()
    assert f"{POINTS} points, 36 different cells, {36 - len(kept)} to train." in done.stderr
    return artifacts, json.loads(done.stdout)


@pytest.mark.full
def test_every_point_is_there_and_those_that_failed_say_why(ablated: tuple[Path, Any]):
    _, said = ablated
    assert len(said["points"]) == POINTS
    assert said["points"][0]["settings"] == {"law.tau": 5.0, "finetune.learning_rate": 0.001}
    for point in said["points"]:
        diverged = point["settings"]["finetune.learning_rate"] == 1e30
        assert diverged == ("the training loss is not finite" in point["failed"])
        assert diverged == (point["kendall"] is None)
    assert len(said["candidates"]) == 4 * 3
    assert [row["points"] for row in said["keys"]] == [1, 1]
    assert any("learning_rate=1e+30" in entry["step"] for entry in said["failed"])


@pytest.mark.full
def test_cells_are_trained_once_and_shown_as_cached_elsewhere(ablated: tuple[Path, Any]):
    """Two learning rates of twelve cells each; those that diverge leave none."""
    artifacts, _ = ablated
    assert len(cells(artifacts)) == 2 * 12
    with sqlite3.connect(artifacts / "prefect" / "prefect.db") as database:
        runs = database.execute(
            "SELECT r.name, t.state_name, COUNT(*) FROM task_run t "
            "JOIN flow_run r ON t.flow_run_id = r.id WHERE t.name LIKE 'finetune%' "
            "AND r.parent_task_run_id IS NOT NULL AND r.state_type != 'CRASHED' "
            "GROUP BY r.name, t.state_name"
        ).fetchall()
    states: dict[str, dict[str, int]] = {}
    for name, state, count in runs:
        states.setdefault(name, {})[state] = count
    own, other = "finetune.learning_rate=0.001", "finetune.learning_rate=0.0005"
    assert states[f"law.tau=0.5, {own}"] == {"Cached": 3}  # one per candidate
    assert states[f"law.tau=5, {other}"] == {"Cached": 3}
    diverging = [found for name, found in states.items() if "1e+30" in name]
    assert [found.get("Failed", 0) > 0 for found in diverging] == [True]  # not tried again


@pytest.mark.full
def test_what_no_ranking_reads_is_measured_for_the_pipeline_itself_alone(ablated: tuple[Path, Any]):
    artifacts, _ = ablated
    assert len(list(artifacts.glob("curvature/*/manifest.json"))) == 3
    assert list(artifacts.glob("delta/*/manifest.json")) == []


@pytest.mark.full
def test_page_figure_and_table_are_published(ablated: tuple[Path, Any]):
    artifacts, said = ablated
    folder = artifacts / "reports" / "smoke-ablation"
    page = (folder / "ablation.html").read_text(encoding="utf-8")
    assert said["report"] == str(folder / "ablation.html")
    assert said["points"][0]["choice"] in page
    assert (folder / "ablation.png").stat().st_size > 20_000
    table = pd.read_csv(folder / "points.csv")
    assert len(table) == POINTS
    assert {0.001, 0.0005, 1e30} == set(table["finetune.learning_rate"])


@pytest.mark.full
def test_mlflow_compares_the_points(ablated: tuple[Path, Any]):
    artifacts, _ = ablated
    client = MlflowClient(f"sqlite:///{artifacts / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("lensllm/smoke-ablation")
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    finished = [run for run in parents if run.info.status == "FINISHED"]
    found = {(r.data.params["law.tau"], r.data.params["finetune.learning_rate"]) for r in finished}
    assert {(t, rate) for t in ("5.0", "0.5") for rate in ("0.001", "0.0005")} == found


@pytest.mark.full
def test_a_second_time_computes_nothing_that_did_not_fail(ablated: tuple[Path, Any]):
    artifacts, first = ablated
    before = tables(artifacts)
    good = ("--over", "law.tau=0.5", "--over", "finetune.learning_rate=5e-4")
    once = lensllm("ablate", "smoke", *good, *FEW, "--artifacts", artifacts, "--json")
    again = lensllm("ablate", "smoke", *good, *FEW, "--artifacts", artifacts, "--json")
    said = [json.loads(done.stdout) for done in (once, again)]
    assert [done.returncode for done in (once, again)] == [0, 0]
    assert [one["computed"] for one in said] == [1, 0]  # the comparison itself
    assert said[0]["points"] == said[1]["points"]
    assert before.items() <= tables(artifacts).items()
    compared = ("kendall", "choice", "transition", "ats_transition")
    own, *others = ({k: row[k] for k in compared} for row in first["points"] if not row["failed"])
    assert [own, *others] == [{k: row[k] for k in compared} for row in said[0]["points"]]


@pytest.mark.full
def test_the_pipeline_itself_reuses_what_the_ablation_made(ablated: tuple[Path, Any]):
    artifacts, _ = ablated
    planned = lensllm("plan", "smoke", *FEW, "--artifacts", artifacts, "--json")
    stages = json.loads(planned.stdout)["stages"]
    assert stages["finetune"]["artefacts"] == stages["finetune"]["cached"]
