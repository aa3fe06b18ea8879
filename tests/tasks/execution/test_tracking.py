"""The MLflow projection in a real SQLite MLflow: complete, idempotent, never in the way."""

import logging
import math
import multiprocessing
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tasks.execution.tracking import Row, Tracker


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tracking") / "mlflow.db"


@pytest.fixture
def tracker(database: Path, request: pytest.FixtureRequest) -> Callable[..., Tracker]:
    """Opens trackers on an experiment of the test's own, as a command does each time it runs."""

    def opened(params: dict[str, Any] | None = None, key: str = "key", name: str = "demo"):
        return Tracker(f"sqlite:///{database}", request.node.name, key, name, params or {})

    return opened


def row(
    metrics: dict[str, float] | None = None,
    params: dict[str, Any] | None = None,
    step: int | None = None,
) -> Callable[[], Row]:
    return lambda: (params or {}, metrics or {}, step)


@pytest.fixture
def runs(database: Path, request: pytest.FixtureRequest) -> Callable[[], list[Run]]:
    """The experiment's runs as MLflow has them, oldest first."""

    def read() -> list[Run]:
        client = MlflowClient(f"sqlite:///{database}")
        experiment = client.get_experiment_by_name(request.node.name)
        return list(client.search_runs([experiment.experiment_id], order_by=["start_time"]))

    return read


def test_a_sweep_is_a_parent_with_a_child_per_artefact(
    tracker: Callable[..., Tracker], runs: Callable[[], list[Run]], tmp_path: Path
) -> None:
    figure = tmp_path / "curves.png"
    figure.write_bytes(b"picture")
    mlflow = tracker({"sweep.max": 3200})
    mlflow.child("a1", "gpt2 400", row({"loss": 2.5}, {"candidate": "gpt2"}, 400))
    mlflow.child("a2", "opt 400", row({"loss": 2.25}, {"candidate": "opt"}, 400))
    mlflow.finish({"regret": 0.0}, [figure])
    mlflow.close()

    found = {run.info.run_name: run for run in runs()}
    assert {"demo", "gpt2 400", "opt 400"} == set(found)
    assert {"FINISHED"} == {run.info.status for run in found.values()}
    assert found["demo"].data.params == {"sweep.max": "3200"}
    assert found["demo"].data.metrics == {"regret": 0.0}
    for name, key, loss in (("gpt2 400", "a1", 2.5), ("opt 400", "a2", 2.25)):
        tags = found[name].data.tags
        assert (found["demo"].info.run_id, key) == (
            tags["mlflow.parentRunId"],
            tags["artefact.key"],
        )
        assert {"loss": loss} == found[name].data.metrics


def test_metrics_carry_their_step_and_files_lie_beside_the_database(
    tracker: Callable[..., Tracker], runs: Callable[[], list[Run]], database: Path, tmp_path: Path
) -> None:
    (tmp_path / "report.html").write_text("<p>answer</p>")
    mlflow = tracker()
    mlflow.child("a1", "cell", row({"loss": 2.5}, step=400))
    mlflow.finish({}, [tmp_path / "report.html"])
    mlflow.close()
    run_id = {run.info.run_name: run.info.run_id for run in runs()}
    client = MlflowClient(f"sqlite:///{database}")
    assert [point.step for point in client.get_metric_history(run_id["cell"], "loss")] == [400]
    copy = database.parent / "mlflow-artifacts" / run_id["demo"] / "artifacts" / "report.html"
    assert copy.read_text() == "<p>answer</p>"


def test_running_again_writes_nothing(
    tracker: Callable[..., Tracker], runs: Callable[[], list[Run]], database: Path
) -> None:
    def sweep() -> None:
        mlflow = tracker({"seed": 0})
        for i in range(5):
            mlflow.child(f"a{i}", f"cell {i}", row({"loss": 1.0 / (1 + i)}, {"i": i}, i))
        mlflow.finish({"regret": 0.1}, [])
        mlflow.close()

    sweep()
    first = _content(database)
    sweep()
    assert first == _content(database)
    assert len(runs()) == 6


def test_another_run_key_is_another_parent_and_what_is_new_is_added(
    tracker: Callable[..., Tracker], runs: Callable[[], list[Run]]
) -> None:
    for key, artefacts in (("k1", "a"), ("k2", "a"), ("k1", "ab")):
        mlflow = tracker(key=key, name=key)
        for artefact in artefacts:
            mlflow.child(artefact, f"{key} {artefact}", row())
        mlflow.finish({"cells": len(artefacts)}, [])
        mlflow.close()
    found = {run.info.run_name: run for run in runs()}
    assert {"k1", "k1 a", "k1 b", "k2", "k2 a"} == set(found)
    assert found["k1"].data.metrics == {"cells": 2.0}


def test_a_half_written_child_is_written_anew(
    tracker: Callable[..., Tracker], runs: Callable[[], list[Run]], database: Path
) -> None:
    mlflow = tracker()
    mlflow.child("a1", "cell", row({"loss": 9.0}))
    mlflow.close()
    (whole,) = [run for run in runs() if run.info.run_name == "cell"]
    MlflowClient(f"sqlite:///{database}").update_run(whole.info.run_id, "RUNNING")  # as if killed

    mlflow = tracker()
    mlflow.child("a1", "cell", row({"loss": 2.5}))
    mlflow.close()
    (again,) = [run for run in runs() if run.info.run_name == "cell"]
    assert again.info.run_id != whole.info.run_id
    assert (again.info.status, again.data.metrics) == ("FINISHED", {"loss": 2.5})


@pytest.mark.parametrize(
    "statuses", [["FINISHED"], ["FINISHED", "RUNNING"], ["RUNNING", "RUNNING"]]
)
def test_of_a_child_that_others_wrote_too_one_stays(
    tracker: Callable[..., Tracker],
    runs: Callable[[], list[Run]],
    database: Path,
    statuses: list[str],
) -> None:
    """Another command at the same moment, or a server that was killed before it had answered."""
    mlflow = tracker()
    mlflow.child("a1", "cell", row({"loss": 2.5}))
    mlflow.close()
    (first,) = (run for run in runs() if run.info.run_name == "cell")

    mlflow = tracker()
    mlflow.child("a2", "cell", row({"loss": 2.25}))
    while len(runs()) < 3:
        time.sleep(0.05)
    client = MlflowClient(f"sqlite:///{database}")
    for status in statuses:
        tags = {key: first.data.tags[key] for key in ("mlflow.parentRunId", "artefact.key")}
        run = client.create_run(first.info.experiment_id, tags=tags, run_name="cell")
        if status == "FINISHED":
            client.set_terminated(run.info.run_id)
    mlflow.finish({"regret": 0.0}, [])
    mlflow.close()
    assert [run.info.status for run in runs()] == ["FINISHED"] * 3
    assert first.info.run_id in {run.info.run_id for run in runs()}


def test_what_mlflow_would_refuse_is_made_to_fit(
    tracker: Callable[..., Tracker], runs: Callable[[], list[Run]]
) -> None:
    mlflow = tracker({"long": "x" * 10_000} | {f"p{i}": i for i in range(150)})
    metrics = {"nan": math.nan, "inf": math.inf, "p/gpt2@main+x": 1.0}
    mlflow.child("a1", "cell", row(metrics))
    mlflow.close()
    found = {run.info.run_name: run for run in runs()}
    assert found["cell"].data.metrics == {"p/gpt2_main_x": 1.0}
    assert len(found["demo"].data.params) == 151
    assert found["demo"].data.params["long"] == "x" * 500


def test_a_deleted_experiment_is_restored(
    tracker: Callable[..., Tracker], runs: Callable[[], list[Run]], database: Path
) -> None:
    for _ in range(2):
        mlflow = tracker()
        mlflow.close()
        (run,) = runs()
        MlflowClient(f"sqlite:///{database}").delete_experiment(run.info.experiment_id)


def test_a_failure_is_one_warning_and_the_sweep_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow = Tracker("http://127.0.0.1:9", "demo", "key", "demo", {})  # nobody listens there
    with caplog.at_level(logging.WARNING, "lensllm.tracking"):
        for i in range(3):
            mlflow.child(f"a{i}", "cell", row({"loss": 1.0}))
        mlflow.finish({}, [])
        mlflow.close()
    ours = [r.getMessage() for r in caplog.records if r.name == "lensllm.tracking"]
    assert len(ours) == 1
    assert "cannot be written" in ours[0]


def test_what_an_outage_missed_is_written_once_when_mlflow_is_back(
    tracker: Callable[..., Tracker],
    runs: Callable[[], list[Run]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The outage begins in the middle of a cell, whose run is there by half."""
    mlflow = tracker()
    mlflow.child("a0", "cell 0", row({"loss": 1.0}))
    mlflow._writer.submit(lambda: None).result()
    with monkeypatch.context() as outage, caplog.at_level(logging.WARNING, "lensllm.tracking"):
        outage.setattr(MlflowClient, "log_batch", _refuse)
        mlflow.child("a1", "cell 1", row({"loss": 2.0}))
        mlflow.child("a2", "cell 2", row({"loss": 3.0}))
        mlflow._writer.submit(lambda: None).result()
    assert len(caplog.records) == 1
    mlflow._retry_at = time.monotonic()  # the minute is over
    mlflow.child("a3", "cell 3", row({"loss": 4.0}))
    mlflow.finish({"regret": 0.0}, [])
    mlflow.close()
    losses = {run.info.run_name: run.data.metrics.get("loss") for run in runs()}
    assert losses == {"demo": None, **{f"cell {i}": i + 1.0 for i in range(4)}}
    assert len(runs()) == 5
    assert {"FINISHED"} == {run.info.status for run in runs()}


def _refuse(*_: object, **__: object) -> None:
    raise ConnectionError("the server is away")


def test_processes_that_start_at_once_create_one_database(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.starmap(_track, [(uri, f"k{i}") for i in range(2)]) == [True] * 2
    client = MlflowClient(uri)
    found = client.search_runs([client.get_experiment_by_name("demo").experiment_id])
    assert {"k0", "k1"} == {run.info.run_name for run in found}


def _track(uri: str, key: str) -> bool:
    mlflow = Tracker(uri, "demo", key, key, {})
    mlflow.finish({"one": 1.0}, [])
    mlflow.close()
    return not mlflow._due


def _content(database: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every row of the tables that runs are kept in."""
    tables = ("runs", "metrics", "latest_metrics", "params", "tags", "experiments")
    with sqlite3.connect(database) as connection:
        return {t: sorted(map(repr, connection.execute(f"SELECT * FROM {t}"))) for t in tables}
