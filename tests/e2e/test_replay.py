"""``lensllm replay`` end to end: a table in, strict JSON out, everything else kept for people."""

import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from mlflow import MlflowClient

from tests.e2e.conftest import lensllm

pytestmark = pytest.mark.slow

SCORES = (
    *("budget", "target", "predictor", "pearson", "spearman", "kendall", "rel_acc", "rmse_log"),
    *("coverage_80", "p_best_log_score"),
)
CANDIDATES = ("candidate", "budget", "predictor", "predicted", "low", "high", "p_best")
STAGES = ("losses", "law", "prediction", "ranking", "checks", "report")


def strict(text: str) -> Any:
    """JSON and nothing but JSON, without NaN and infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def made(artifacts: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in artifacts.glob("*/*/manifest.json")}


@pytest.fixture(scope="module")
def flan(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    artifacts = tmp_path_factory.mktemp("replay")
    done = lensllm("replay", "flan", "--artifacts", artifacts, "--json")
    assert done.returncode == 0, done.stderr
    return artifacts, strict(done.stdout)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a spreadsheet on Windows saves it; one candidate diverged early."""
    draw = np.random.default_rng(0)
    sizes = 100 * 2 ** np.arange(9)
    level, slope = np.linspace(2.0, 3.0, 5)[:, None], np.linspace(0.15, 0.02, 5)[:, None]
    losses = level * (sizes / sizes[-1]) ** -slope * np.exp(0.003 * draw.standard_normal((5, 9)))
    losses[4, 2:] = np.nan
    text = pd.DataFrame(losses, index=list("abcde"), columns=sizes).to_csv(index_label="model")
    path = tmp_path_factory.mktemp("table") / "mine.csv"
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    return path


def test_the_json_has_every_predictor_and_every_candidate(flan: tuple[Path, Any]):
    _, said = flan
    assert {SCORES} == {tuple(row) for row in said["scores"]}
    assert {CANDIDATES} == {tuple(row) for row in said["candidates"]}
    assert {(204_800, 1_638_400)} == {(r["budget"], r["target"]) for r in said["scores"]}
    by_name = {row["predictor"]: row for row in said["scores"]}
    assert {"zero_shot", "model_size", "sub_tuning", "vanilla", "rectified", "ats"} <= set(by_name)
    assert {"hrb", "blend", "stack"} <= set(by_name)
    assert len(said["candidates"]) == 30 * len(by_name)
    assert by_name["stack"]["pearson"] > 0.9 > by_name["zero_shot"]["pearson"]


def test_page_and_mlflow_show_the_replay(flan: tuple[Path, Any]):
    artifacts, said = flan
    page = artifacts / "reports" / "replay-flan" / "report.html"
    assert str(page) == said["report"]
    assert said["choice"] in page.read_text(encoding="utf-8")
    client = MlflowClient(f"sqlite:///{artifacts / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("lensllm/replay-flan")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    pearson = {row["predictor"]: row["pearson"] for row in said["scores"]}
    assert run.data.metrics["pearson/stack"] == pytest.approx(pearson["stack"])
    assert {f.path for f in client.list_artifacts(run.info.run_id)} >= {"curves.png", "report.html"}


def test_no_process_is_left(flan: tuple[Path, Any]):
    commands = [p.info["cmdline"] or [] for p in psutil.process_iter(["cmdline"])]
    assert [c for c in commands if any(str(flan[0]) in word for word in c)] == []


def test_a_second_time_computes_nothing(flan: tuple[Path, Any]):
    artifacts, first = flan
    before = made(artifacts)
    assert {*STAGES} == {path.parts[-3] for path in before}
    done = lensllm("replay", "flan", "--artifacts", artifacts, "--json")
    assert (done.returncode, strict(done.stdout)) == (0, first)
    assert before == made(artifacts)
    with sqlite3.connect(artifacts / "prefect" / "prefect.db") as database:
        latest = "SELECT id FROM flow_run ORDER BY created DESC LIMIT 1"
        states = database.execute(
            f"SELECT state_name, COUNT(*) FROM task_run WHERE flow_run_id = ({latest})"
            " GROUP BY state_name"
        ).fetchall()
    assert states == [("Cached", len(STAGES))]


def test_a_file_of_ones_own_with_every_budget(table: Path, flan: tuple[Path, Any]):
    artifacts, _ = flan
    done = lensllm("replay", table, "--all-budgets", "--artifacts", artifacts, "--json")
    assert done.returncode == 0, done.stderr
    said = strict(done.stdout)
    assert {1600, 3200} == {row["budget"] for row in said["scores"]}
    assert said["choice"] == "a"
    rows = {(r["predictor"], r["budget"], r["candidate"]): r for r in said["candidates"]}
    assert rows["ats", 3200, "e"]["predicted"] is None  # two sizes are no curve
    assert rows["ats", 3200, "a"]["predicted"] == pytest.approx(2.0, rel=0.05)

    shown = lensllm(
        "replay", table, "--policy", "halving", "--budget", "12800", "--artifacts", artifacts
    )
    assert shown.returncode == 0, shown.stderr
    text = " ".join(shown.stdout.split())
    assert "Dropped after D = 1,600: " in text
    assert re.search(r"examples spent against 128,000 examples for .* saved", text)


@pytest.mark.full
def test_a_predictor_that_needs_more_than_losses_is_one_sentence(
    table: Path, flan: tuple[Path, Any]
):
    artifacts, _ = flan
    done = lensllm("replay", table, "--predictor", "lensllm", "--artifacts", artifacts, "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert "lensllm cannot answer" in done.stderr
    assert "Traceback" not in done.stderr
