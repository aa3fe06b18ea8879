"""``lensllm serve`` is stopped: it ends soon, nobody is left, and the next command goes on."""

import base64
import json
import os
import pickle
import signal
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from lensllm.store.artifacts import Store
from tests.e2e.conftest import COMMAND, ROOT, ask, environment, lensllm, server_of
from tests.e2e.observe import identity, leftovers
from tests.e2e.victims import is_spawned
from tests.stress import NAME, write_pipeline
from tests.waiting import HANG_SECONDS, wait

pytestmark = pytest.mark.slow

CELLS = 2 * 4 * 2


class Serving:
    """The command, on an artifacts folder, and the server that it starts."""

    def __init__(self, file: Path, artifacts: Path) -> None:
        self.artifacts = artifacts
        self.noted = artifacts / "prefect" / "server.json"
        self.noted.unlink(missing_ok=True)  # of the server before
        self._began = datetime.now(UTC).isoformat()
        self._log = file.with_name("serve.log")
        with self._log.open("w") as log:
            self.command = subprocess.Popen(
                [*COMMAND, "serve", NAME, "--file", str(file), "--artifacts", str(artifacts)],
                cwd=ROOT,
                env=environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,  # the process group that a terminal's Ctrl-C is for
            )

    def wait(self, condition: Callable[[], Any], what: str) -> None:
        wait(lambda: self.command.poll() is not None or condition(), what)
        assert self.command.poll() is None, self._log.read_text()

    def deployment(self) -> str:
        """Its id, once the command has asked for the first time what is due."""
        self.wait(self.noted.exists, "the server's process")
        there = f"/deployments/name/scheduled/{NAME}"
        self.wait(
            lambda: (self.ask(there).get("last_polled") or "") > self._began, "the deployment"
        )
        return str(self.ask(there)["id"])

    def begin(self) -> str:
        """Have a run begin, as the button in the page does it; its id."""
        return str(self.ask(f"/deployments/{self.deployment()}/create_flow_run", {})["id"])

    def state(self, run: str) -> str:
        return str(self.ask(f"/flow_runs/{run}")["state"]["type"])

    def ask(self, path: str, content: dict[str, Any] | None = None) -> dict[str, Any]:
        """The server's answer; nothing while it does not know."""
        try:
            return dict(ask(server_of(self.artifacts), path, content))
        except OSError:  # of urllib's errors too
            return {}

    def outcome(self, run: str) -> str:
        """How a run ended; nothing while it goes on."""
        state = self.ask(f"/flow_runs/{run}").get("state", {"type": "DELETED", "message": ""})
        over = state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED", "DELETED")
        return f"{state['type']}: {state['message']}" if over else ""

    def said(self) -> str:
        return self._log.read_text()

    def spawned(self) -> list[psutil.Process]:
        """The processes of runs, and their workers."""
        family = psutil.Process(self.command.pid).children(recursive=True)
        return [process for process in family if is_spawned(process)]

    def stop(self, way: "Way") -> None:
        family = psutil.Process(self.command.pid).children(recursive=True)
        way(self.command, family)
        assert self.command.wait(HANG_SECONDS) == 0
        _, alive = psutil.wait_procs(family, HANG_SECONDS)
        assert alive == []
        assert "Traceback" not in self._log.read_text()
        assert Store(self.artifacts).being_made() == []


Way = Callable[[subprocess.Popen[bytes], list[psutil.Process]], None]


def sigint(command: subprocess.Popen[bytes], _: list[psutil.Process]) -> None:
    command.send_signal(signal.SIGINT)


def sigterm(command: subprocess.Popen[bytes], _: list[psutil.Process]) -> None:
    command.send_signal(signal.SIGTERM)


def ctrl_c(command: subprocess.Popen[bytes], _: list[psutil.Process]) -> None:
    """As a terminal: the runs hear it, too."""
    os.killpg(command.pid, signal.SIGINT)


def systemd(command: subprocess.Popen[bytes], family: list[psutil.Process]) -> None:
    """As systemd stops a service: workers and server hear it, too."""
    for process in (*family, command):
        process.terminate()


@pytest.fixture
def serve() -> Iterator[Callable[[Path], Serving]]:
    """Starts the command, with its artifacts beside the file."""
    started: list[Serving] = []

    def start(file: Path) -> Serving:
        started.append(Serving(file, file.with_name("artifacts")))
        return started[-1]

    yield start
    for serving in started:
        if serving.command.poll() is None:
            os.killpg(serving.command.pid, signal.SIGKILL)
            serving.command.wait()


@pytest.mark.parametrize("way", [pytest.param(sigint, marks=pytest.mark.full), sigterm])
def test_what_waits_for_its_schedule_ends(
    tmp_path: Path, serve: Callable[[Path], Serving], way: Way
) -> None:
    file = write_pipeline(tmp_path, 1, 4, 1, schedule={"cron": "0 0 1 1 *"})
    serving = serve(file)
    serving.wait(serving.noted.exists, "the server's process")
    serving.stop(way)  # nobody can be asked for anything yet
    serving = serve(file)
    serving.deployment()
    serving.stop(way)


@pytest.mark.full
@pytest.mark.parametrize("way", [sigterm, ctrl_c, systemd])
def test_what_is_in_the_middle_of_cells_ends_and_run_goes_on(
    tmp_path: Path, serve: Callable[[Path], Serving], way: Way
) -> None:
    file = write_pipeline(tmp_path, 2, 4, 2, tracking={"enabled": False}, engine={"slots": 2})
    store = Store(tmp_path / "artifacts")

    def cells() -> dict[Path, tuple[int, int]]:
        return {path: identity(path) for path in store.root.glob("finetune/*/manifest.json")}

    serving = serve(file)
    run = serving.begin()
    serving.wait(
        lambda: len(cells()) >= 3 and "finetune" in {ref.stage for ref in store.being_made()},
        "a cell in the making",
    )
    assert serving.state(run) == "RUNNING"
    finished = cells()
    serving.stop(way)
    kept = cells()
    assert finished.items() <= kept.items()
    assert len(kept) < CELLS

    done = lensllm("run", NAME, "--file", file, "--artifacts", store.root, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("] finetune mamba-") == CELLS - len(kept)
    assert kept.items() <= cells().items()
    assert len(cells()) == CELLS
    assert leftovers(store.root) == []


@pytest.mark.full
def test_a_run_that_was_only_beginning_does_not_hold_up_the_next(
    tmp_path: Path, serve: Callable[[Path], Serving]
) -> None:
    """It has named no process yet by which another command could tell that it is dead."""
    file = write_pipeline(tmp_path, 1, 4, 1, tracking={"enabled": False})
    serving = serve(file)
    first = serving.begin()
    serving.wait(lambda: serving.state(first) == "PENDING", "the first run")
    serving.stop(sigterm)
    serving = serve(file)
    second = serving.begin()
    assert serving.state(first) == "CANCELLED"
    serving.wait(lambda: serving.state(second) == "RUNNING", "the second run")
    history = ask(server_of(serving.artifacts), f"/flow_run_states/?flow_run_id={second}")
    assert "AwaitingConcurrencySlot" not in {state["name"] for state in history}
    serving.stop(sigterm)


_TRAP = """
from pathlib import Path
from prefect import flow

Path({opened!r}).touch()

@flow
def scheduled(pipeline, file, artifacts):
    return None
"""


class _Touch:
    """Makes a file where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.file}",)


def test_only_what_was_registered_is_run(tmp_path: Path, serve: Callable[[Path], Serving]) -> None:
    """Somebody who has the secret changes the deployment, and what one of its runs is to do."""
    file, opened = write_pipeline(tmp_path, 1, 4, 1, tracking={"enabled": False}), tmp_path / "open"
    (tmp_path / "trap.py").write_text(_TRAP.format(opened=str(opened)))
    serving = serve(file)
    serving.deployment()
    there = serving.ask(f"/deployments/name/scheduled/{NAME}")
    script = {"prefect.deployments.steps.run_shell_script": {"script": f"touch {opened}"}}
    trap = {
        "pull_steps": [script],
        "entrypoint": "trap.py:scheduled",
        "path": str(tmp_path),
        "job_variables": {"command": f"touch {opened}", "env": {"PYTHONPATH": str(tmp_path)}},
    }
    same = {name: there[name] for name in ("name", "flow_id", "parameters")}
    assert serving.ask("/deployments/", {**same, **trap})
    changed = serving.ask(f"/deployments/name/scheduled/{NAME}")
    assert {name: changed[name] for name in trap} == trap
    run = str(serving.ask(f"/deployments/{changed['id']}/create_flow_run", {})["id"])
    serving.wait(lambda: "put right" in serving.said(), "the deployment to be put right")
    serving.wait(lambda: serving.outcome(run) != "", "the end of the run")
    right = serving.ask(f"/deployments/name/scheduled/{NAME}")
    assert right["entrypoint"] == "flows.schedules.scheduled.rerun"
    assert not any(right[name] for name in ("pull_steps", "path", "job_variables"))
    assert "(entrypoint, path, pull_steps, job_variables): put right" in serving.said()

    elsewhere = {"parameters": {**right["parameters"], "file": "elsewhere.yaml"}}
    run = str(serving.ask(f"/deployments/{right['id']}/create_flow_run", elsewhere)["id"])
    serving.wait(lambda: serving.outcome(run) != "", "the end of the run")
    assert "has not registered these parameters" in serving.outcome(run)

    stored = tmp_path / "stored"  # a result, which Prefect would unpickle
    pickled = base64.b64encode(pickle.dumps(_Touch(opened))).decode()
    place = {"storage_key": str(stored), "serializer": {"type": "pickle", "picklelib": "pickle"}}
    stored.write_text(json.dumps({"metadata": place, "result": pickled}))
    before = set(serving.spawned())
    run = str(serving.ask(f"/deployments/{right['id']}/create_flow_run", {})["id"])
    serving.wait(lambda: set(serving.spawned()) - before, "the run's process")
    (process,) = set(serving.spawned()) - before
    process.suspend()  # it is importing, and must not begin before its state is changed
    serving.wait(lambda: serving.state(run) == "PENDING", "the run's state")
    done = {"type": "COMPLETED", "name": "Completed", "data": place}
    assert serving.ask(f"/flow_runs/{run}/set_state", {"state": done, "force": True})
    process.resume()
    serving.wait(lambda: "is not loaded" in serving.said(), "that it is refused")
    serving.stop(sigterm)
    assert not opened.exists()
