"""What the tests of the running machinery share: Prefect told where to live, and who waits how."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.server.environment import prepare
from lensllm.core.processes import started

# Prefect reads its settings when a test module first imports it: before that, here.
prepare(Path(tempfile.mkdtemp(prefix="lensllm-tests-")))


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One server home for all: a new database takes 6 CPU-seconds of migrations."""
    return tmp_path_factory.mktemp("artifacts") / "prefect"


@pytest.fixture(autouse=True)
def _no_server_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


@pytest.fixture(scope="session")
def gone() -> Callable[[int], bool]:
    """Whether a process ends soon."""

    def wait(pid: int, within_seconds: float = 60.0) -> bool:
        deadline = time.monotonic() + within_seconds
        while started(pid) is not None and time.monotonic() < deadline:
            time.sleep(0.1)
        return started(pid) is None

    return wait
