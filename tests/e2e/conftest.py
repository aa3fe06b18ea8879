"""The command as users run it: a process of its own, real servers, real training."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from flows.server.access import authorization
from flows.server.prefect_server import Server
from tests.waiting import HANG_SECONDS

ROOT = Path(__file__).parents[2]
COMMAND = [str(Path(sys.executable).with_name("lensllm"))]

Run = Callable[..., subprocess.CompletedProcess[str]]


def environment() -> dict[str, str]:
    """The user's environment without a server of their own, and with models that are made soon."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))}
    return {**kept, "PYTHONPATH": f"{Path(__file__).with_name('quick_models')}:{ROOT}"}


def lensllm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )


def server_of(artifacts: Path) -> Server:
    """The embedded server of an artifacts folder, with its secret."""
    return Server(**json.loads((artifacts / "prefect" / "server.json").read_text()))


def ask(server: Server, path: str, content: dict[str, Any] | None = None) -> Any:
    """What the API answers to whoever holds the secret."""
    data = None if content is None else json.dumps(content).encode()
    headers = {"Authorization": authorization(server.secret), "Content-Type": "application/json"}
    with urlopen(Request(server.url + path, data, headers), timeout=HANG_SECONDS) as answer:
        return json.load(answer)


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """An uninterrupted run of the pipeline ``smoke``: its artifacts folder and its JSON."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # one for all of pytest's processes
        root = root.parent
    artifacts, said = root / "smoke", root / "smoke.json"
    with (root / "smoke.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not said.exists():
            done = lensllm("run", "smoke", "--artifacts", artifacts, "--json")
            assert done.returncode == 0, done.stderr
            said.write_text(done.stdout)
    return artifacts, json.loads(said.read_text())


@pytest.fixture
def pretrained(smoke: tuple[Path, dict], tmp_path: Path) -> Path:
    """An artifacts folder that holds data and pretrained candidates, and no cell yet."""
    for stage in ("dataset", "sample", "pretext", "tokenizer", "pretrain", "tokens"):
        shutil.copytree(smoke[0] / stage, tmp_path / stage)
    return tmp_path
