"""The pipeline end to end: run, run again, damage, interruption."""

import json
import re
import shutil
import signal
import sqlite3
import subprocess
from pathlib import Path

import pandas as pd
import psutil
import pytest
from mlflow import MlflowClient

from tests.e2e.conftest import COMMAND, ROOT, environment, lensllm
from tests.waiting import HANG_SECONDS, wait

pytestmark = pytest.mark.slow

STEPS = 61  # artefacts of smoke that stay, report included
KEPT = 6  # weights that a cell keeps in passing until its curvature is measured
FINAL = ("curve", "law", "ranking", "checks")


def tables(artifacts: Path) -> dict[str, bytes]:
    """The bytes of the final tables, by stage and key."""
    return {
        path.relative_to(artifacts).as_posix(): path.read_bytes()
        for stage in FINAL
        for path in (artifacts / stage).rglob("*.parquet")
    }


def test_the_ranking_is_complete_and_scored(smoke):
    artifacts, said = smoke
    assert {"gpt2-nano-docs", "neo-micro-topics", "t5-mini-docs"} == {
        row["candidate"] for row in said["ranking"]
    }
    assert [row["rank"] for row in said["ranking"]] == [1, 2, 3]
    assert all(row["low"] < row["predicted"] < row["high"] for row in said["ranking"])
    assert pytest.approx(sum(row["p_best"] for row in said["ranking"])) == 1.0
    assert {1, 2, 3} == {row["measured_rank"] for row in said["ranking"]}
    assert {"lensllm", "lensllm_phase", "ats", "zero_shot"} <= {
        row["predictor"] for row in said["scores"]
    }
    assert (said["computed"], said["cached"]) == (STEPS, KEPT)
    for name in ("report.html", "curves.png", "predictions.csv"):
        assert (artifacts / "reports" / "smoke" / name).stat().st_size > 0


def test_the_cells_are_rows_of_the_documented_schema(smoke):
    cells = pd.concat(pd.read_parquet(p) for p in (smoke[0] / "finetune").rglob("cell.parquet"))
    assert len(cells) == 18
    trained = cells[cells["size"] > 0]
    assert (trained["train_flops"] > 0).all()
    assert (trained["seconds"] > 0).all()
    assert (trained["peak_memory_bytes"] > 1e8).all()
    assert (cells["test_bytes"] == cells["test_bytes"].iloc[0]).all()
    small = trained[trained["size"] == 8].set_index("candidate")["nats_per_token"]
    large = trained[trained["size"] == 128].set_index("candidate")["nats_per_token"]
    assert (large.sort_index() < small.sort_index()).all()


def test_a_second_run_computes_nothing_and_plan_says_so(smoke):
    artifacts, first = smoke
    foreseen = json.loads(lensllm("plan", "smoke", "--artifacts", artifacts, "--json").stdout)
    assert foreseen["to_run"] == 0
    again = lensllm("run", "smoke", "--artifacts", artifacts, "--json")
    assert again.returncode == 0, again.stderr
    said = json.loads(again.stdout)
    assert (said["computed"], said["cached"]) == (0, STEPS)
    assert first["ranking"] == said["ranking"]

    with sqlite3.connect(artifacts / "prefect" / "prefect.db") as database:
        latest = "SELECT id FROM flow_run ORDER BY created DESC LIMIT 1"
        states = database.execute(
            f"SELECT state_name, name FROM task_run WHERE flow_run_id = ({latest})"
        ).fetchall()
    assert {"Cached"} == {state for state, _ in states}
    found = [re.search(r"· (\d+) found$", name) for _, name in states]
    assert sum(int(several[1]) if several else 1 for several in found) == STEPS
    assert "finetune gpt2-nano-docs · 6 found" in {name for _, name in states}


def test_mlflow_holds_each_cell_once(smoke):
    client = MlflowClient(f"sqlite:///{smoke[0] / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("lensllm/smoke")
    runs = client.search_runs([experiment.experiment_id])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    parents = [run for run in runs if run not in children]
    assert len(parents) == 1
    assert {"FINISHED"} == {run.info.status for run in runs}
    assert len(children) == 18 + 3 + 3 + 6  # cells, kernels, overlaps, curvatures
    names = [run.info.run_name for run in children]
    cell = next(
        run
        for run, name in zip(children, names, strict=True)
        if "D=64" in name and name.startswith("finetune")
    )
    assert cell.data.metrics["bits_per_byte"] > 0
    files = {f.path for f in client.list_artifacts(parents[0].info.run_id)}
    assert {"curves.png", "report.html"} <= files


def test_status_and_report_read_what_is_there(smoke):
    artifacts, first = smoke
    status = json.loads(lensllm("status", "smoke", "--artifacts", artifacts, "--json").stdout)
    assert {"done"} == {cell["state"] for cell in status["cells"]}
    said = json.loads(lensllm("report", "smoke", "--artifacts", artifacts, "--json").stdout)
    assert first["ranking"] == said["ranking"]


@pytest.mark.full
def test_a_damaged_cell_alone_is_computed_again(smoke, tmp_path: Path):
    artifacts = tmp_path / "artifacts"
    shutil.copytree(smoke[0], artifacts)
    cell = sorted((artifacts / "finetune").rglob("cell.parquet"))[3]
    content = bytearray(cell.read_bytes())
    content[len(content) // 2] ^= 1
    cell.write_bytes(content)

    done = lensllm("run", "smoke", "--artifacts", artifacts, "--json")
    assert done.returncode == 0
    assert f"finetune/{cell.parent.name[:12]} is damaged" in done.stderr
    assert json.loads(done.stdout)["computed"] == 1
    assert tables(smoke[0]) == tables(artifacts)


def start(artifacts: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "run", "smoke", "--artifacts", str(artifacts)],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def cells(artifacts: Path) -> set[Path]:
    return set(artifacts.glob("finetune/*/manifest.json"))


def wait_for_cells(artifacts: Path, count: int) -> set[Path]:
    wait(lambda: len(cells(artifacts)) >= count, f"{count} cells")
    return cells(artifacts)


@pytest.mark.parametrize(
    "way", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.full)]
)
def test_an_interrupted_run_goes_on_where_it_was(smoke, pretrained: Path, way: signal.Signals):
    command = start(pretrained)
    wait_for_cells(pretrained, 3)
    family = psutil.Process(command.pid).children(recursive=True)
    command.send_signal(way)
    said, _ = command.communicate(timeout=HANG_SECONDS)
    if way != signal.SIGKILL:
        assert command.returncode == 130
        assert "go on with lensllm run smoke --artifacts" in said
    _, alive = psutil.wait_procs(family, timeout=HANG_SECONDS)
    assert alive == []
    kept = {p: p.stat().st_mtime_ns for p in pretrained.glob("finetune/*/manifest.json")}

    done = lensllm("run", "smoke", "--artifacts", pretrained, "--json")
    assert done.returncode == 0, done.stderr
    assert kept == {p: p.stat().st_mtime_ns for p in kept}
    assert tables(smoke[0]) == tables(pretrained)
    assert list((pretrained / ".tmp").iterdir()) == []
    assert list((pretrained / ".locks").iterdir()) == []
    with sqlite3.connect(pretrained / "prefect" / "prefect.db") as database:
        left = database.execute(
            "SELECT name FROM task_run WHERE state_type IN ('RUNNING', 'PENDING') "
            "UNION SELECT name FROM flow_run WHERE state_type IN ('RUNNING', 'PENDING')"
        ).fetchall()
    assert left == []
