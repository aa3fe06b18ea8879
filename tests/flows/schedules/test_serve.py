"""``lensllm serve`` runs what is due on a server of its own, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml

from tests.e2e.conftest import ask, server_of
from tests.tasks import project
from tests.waiting import HANG_SECONDS, ends, wait

pytestmark = pytest.mark.full
ROOT = Path(__file__).parents[3]


@pytest.fixture
def serving(tmp_path: Path) -> Callable[[], subprocess.Popen[str]]:
    """Starts the command; its pipeline is due every minute."""
    config = project.write_inputs(tmp_path, rows=160).model_dump(mode="json")
    del config["curvature"], config["heavy_tails"]
    config["sweep"] |= {"max": 16, "measure_target": False}
    config["tracking"], config["engine"] = {"enabled": False}, {"slots": 1}
    config["schedule"] = {"cron": "* * * * *"}
    (tmp_path / "pipelines.yaml").write_text(yaml.safe_dump({"pipelines": {"often": config}}))
    where = ["--file", "pipelines.yaml", "--artifacts", "artifacts"]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", "from flows.cli.main import main; main()", "serve", *where],
            cwd=tmp_path,
            env={k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
            | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return start


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_what_is_due_runs_until_the_command_ends(
    serving: Callable[[], subprocess.Popen[str]],
    number: int,
    tmp_path: Path,
) -> None:
    command = serving()
    assert command.stdout is not None
    assert command.stdout.readline().startswith("Prefect UI: http://127.0.0.1:")
    assert command.stdout.readline() == "often: Every minute (UTC)\n"
    server = server_of(tmp_path / "artifacts")
    query = {"flows": {"name": {"any_": ["scheduled"]}}}

    def states() -> set[str]:
        return {run["state"]["name"] for run in ask(server, "/flow_runs/filter", query)}

    wait(lambda: {"Completed", "Unchanged"} & states(), "a run")  # the first makes it all
    children = [child.pid for child in psutil.Process(command.pid).children(recursive=True)]
    command.send_signal(number)
    printed, _ = command.communicate(timeout=HANG_SECONDS)
    assert "often: computed checks 1, curve 1" in printed
    assert "Traceback" not in printed
    assert command.returncode == (-number if number == signal.SIGKILL else 0)
    assert all(ends(pid) for pid in children)
