"""Fixtures of the flows' tests: a folder for Prefect, and one server's home for all of them."""

import tempfile
from pathlib import Path

import pytest

from flows.server.environment import prepare

# Prefect reads its settings when a test module first imports it: before that, here.
prepare(Path(tempfile.mkdtemp(prefix="lensllm-tests-")))


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One server home for all: a new database takes 6 CPU-seconds of migrations."""
    return tmp_path_factory.mktemp("artifacts") / "prefect"


@pytest.fixture(autouse=True)
def _no_server_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
