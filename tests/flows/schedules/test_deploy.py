"""What is deployed: one deployment per scheduled pipeline, each with parameters of its own."""

from pathlib import Path

import pytest
import yaml

from flows.schedules.deploy import deployments, prefect_yaml, register, require_server
from lensllm.core.errors import LensError
from lensllm.store.artifacts import Store

PIPELINES = """
defaults: {candidates: [builtin:gpt2-nano-docs]}
pipelines:
  nightly: {schedule: {cron: "0 2 * * *", timezone: Europe/Berlin}}
  weekly: {schedule: {cron: "0 3 * * mon", overlap: cancel}, description: every Monday}
  by-hand: {}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pipelines.yaml"
    path.write_text(PIPELINES)
    return path


def test_every_scheduled_pipeline_is_a_deployment(file: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "artifacts")
    found = deployments(file, store)
    content = yaml.safe_load(prefect_yaml(found, "gpus", store))
    nightly, weekly = content["deployments"]
    assert content["pull"] == []
    assert [nightly["name"], weekly["name"]] == ["nightly", "weekly"]
    assert nightly["parameters"] == {
        "pipeline": "nightly",
        "file": str(file),
        "artifacts": str(store.root),
    }
    assert nightly["schedules"] == [{"cron": "0 2 * * *", "timezone": "Europe/Berlin"}]
    strategies = [d["concurrency_limit"]["collision_strategy"] for d in (nightly, weekly)]
    assert strategies == ["ENQUEUE", "CANCEL_NEW"]
    assert {"gpus"} == {d["work_pool"]["name"] for d in (nightly, weekly)}
    variables = nightly["work_pool"]["job_variables"]["env"]
    assert variables["DO_NOT_TRACK"] == "1"
    assert not {"PREFECT_HOME", "PREFECT_API_URL", "PREFECT_API_KEY"} & variables.keys()
    assert found[0].when == "At 02:00 every day (Europe/Berlin)"


def test_a_pipeline_that_is_named_needs_no_schedule(file: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "artifacts")
    (found,) = deployments(file, store, ["by-hand"])
    assert found.when == "by hand"
    assert yaml.safe_load(prefect_yaml([found], "p", store))["deployments"][0]["schedules"] == []


def test_what_cannot_be_deployed_is_a_sentence(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "artifacts")
    file.write_text("pipelines: {a: {candidates: [builtin:gpt2-nano-docs]}}")
    with pytest.raises(LensError, match=r"no pipeline has a schedule; give one 'schedule: \{cron"):
        deployments(file, store)
    with pytest.raises(LensError, match="no pipeline 'b'"):
        deployments(file, store, ["b"])
    with pytest.raises(
        LensError, match=r"^PREFECT_API_URL names no Prefect server .* lensllm serve"
    ):
        require_server()
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    from prefect.context import refresh_global_settings_context

    refresh_global_settings_context()
    require_server()
    with pytest.raises(
        LensError, match=r"^the Prefect server at http://127.0.0.1:9/api/? does not"
    ):
        register(tmp_path / "prefect.yaml", "p")
    monkeypatch.delenv("PREFECT_API_URL")
    refresh_global_settings_context()
