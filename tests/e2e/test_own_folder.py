"""A folder with modules of our names: no process of a command imports them."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import COMMAND, environment
from tests.stress import NAME, write_pipeline
from tests.waiting import HANG_SECONDS

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The user's folder: a pipeline, and modules that fail where they are imported."""
    write_pipeline(tmp_path, 2, 3, 1).rename(tmp_path / "pipelines.yaml")
    for module in ("flows/__init__.py", "tasks.py", "lensllm.py", "lensllm/__init__.py"):
        (tmp_path / module).parent.mkdir(exist_ok=True)
        (tmp_path / module).write_text("raise SystemExit('taken for ours')")
    return tmp_path


def lensllm(folder: Path, *words: str) -> str:
    """Run the installed command in ``folder``; what it prints."""
    done = subprocess.run(
        [*COMMAND, *words],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=HANG_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "taken for ours" not in done.stdout + done.stderr
    return done.stdout


def test_no_process_of_a_command_takes_the_users_modules_for_ours(folder: Path) -> None:
    """Command, Prefect's server and workers; ``tests/flows/cli/test_ui.py`` has MLflow's page."""
    assert json.loads(lensllm(folder, "plan", NAME, "--json"))["to_run"] > 0
    said = json.loads(lensllm(folder, "run", NAME, "--json"))
    assert (said["failed"], len(said["ranking"])) == ([], 2)
    assert "taken for ours" not in (folder / "artifacts" / "prefect" / "server.log").read_text()
