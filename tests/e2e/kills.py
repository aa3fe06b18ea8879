"""A sweep under fire: one of its processes is killed at a random moment, again and again."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
from mlflow import MlflowClient

from flows.server import answers
from tests.e2e.conftest import COMMAND, ROOT, environment
from tests.stress import NAME

VICTIMS = ("command", "worker", "server", "mlflow")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
FINAL = ("curve", "law", "ranking", "checks")
_COMPUTED = re.compile(r"^\[\d+/\d+\] (finetune .*) \([\d.]+ s\)", re.MULTILINE)
_PATIENCE_SECONDS = 300.0


class Mlflow:
    """A tracking server of our own, which comes back at the same address."""

    def __init__(self, folder: Path) -> None:
        self.database = f"sqlite:///{folder / 'tracking.db'}"
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self.start()
        self.wait()

    def start(self) -> None:
        with (self._folder / "tracking.log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1",
                 "--port", str(self._port), "--backend-store-uri", self.database,
                 "--artifacts-destination", str(self._folder / "figures")],
                env={**environment(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def wait(self) -> None:
        wait(lambda: answers(f"{self.uri}/health"), "the tracking server")

    def kill(self, way: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, way)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(1)  # it may wait for open connections
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Siege:
    """One command, started again whenever it has ended, and who is killed of its family."""

    def __init__(self, file: Path, artifacts: Path, mlflow: Mlflow, seed: int) -> None:
        self.artifacts, self.mlflow = artifacts, mlflow
        self.arguments = [*COMMAND, "run", NAME, "--file", str(file), "--artifacts", str(artifacts),
                          "--set", f"tracking.uri={mlflow.uri}"]  # fmt: skip
        self.draw = random.Random(seed)
        self.command: subprocess.Popen[bytes] | None = None
        self.kept: dict[Path, tuple[int, int]] = {}  # finished cells: inode and time of writing
        self.killed: Counter[tuple[str, str]] = Counter()  # by victim and signal
        self.log = artifacts.parent / "siege.log"
        self._family: list[psutil.Process] = []

    def endure(self, kills: int, cells: int) -> None:
        """Kill that often while the ``cells`` are made, then let the command end."""
        # four victims and three signals: twelve in a row are all pairs
        plan = [(VICTIMS[i % len(VICTIMS)], SIGNALS[i % len(SIGNALS)]) for i in range(kills)]
        self.draw.shuffle(plan)
        for i, (victim, way) in enumerate(plan):
            self._start()
            left = max(1, cells - len(self._cells()))
            self._progress(self.draw.randint(0, max(1, int(1.2 * left / (kills - i + 1)))))
            time.sleep(0.2 * self.draw.random())  # not always when a cell has just ended
            for _ in range(100):  # a worker, or the server, may not be there at this moment
                if self._kill(victim, way):
                    self.killed[victim, way.name] += 1
                    break
                self._start()
                time.sleep(0.2)
        self.mlflow.wait()
        for _ in range(3):  # what a killed worker was at fails that run, and no other
            self._start()
            if self._ended() == 0:
                return
        raise AssertionError(f"it does not end:\n{self.log.read_text()[-3000:]}")

    def _start(self) -> None:
        if self.command is not None and self.command.poll() is None:
            return
        self._ended()
        with self.log.open("ab") as log:
            self.command = subprocess.Popen(
                self.arguments, cwd=ROOT, env=environment(), stdout=log, stderr=log
            )

    def _progress(self, more: int) -> None:
        """Wait for so many more cells, or the end."""
        aim = len(self._cells()) + more
        command = self.command
        assert command is not None
        wait(lambda: command.poll() is not None or len(self._cells()) >= aim, f"{more} cells")

    def _kill(self, victim: str, way: signal.Signals) -> bool:
        command = self.command
        assert command is not None
        self._look_around()
        if command.poll() is not None:
            return False
        match victim:
            case "command":
                command.send_signal(way)
                # Ctrl-C and SIGTERM wait for tables in the making, not for cells.
                code = self._ended()
                assert code in (130, -way, 1), code  # 1: while the command was loading
            case "mlflow":
                self.mlflow.kill(way)
                self.mlflow.start()  # the sweep does not wait for it
            case _:
                return self._signal(self._pids(victim), way)
        return True

    def _signal(self, pids: list[int], way: signal.Signals) -> bool:
        if not pids:
            return False
        with suppress(ProcessLookupError):
            os.kill(self.draw.choice(pids), way)
        return True

    def _pids(self, victim: str) -> list[int]:
        if victim == "server":
            try:
                noted = json.loads((self.artifacts / "prefect" / "server.json").read_text())
            except (OSError, ValueError):
                return []
            return [p.pid for p in self._family if p.pid == noted["pid"]]
        assert self.command is not None
        return [p.pid for p in self._family if _is_worker(p)]

    def _look_around(self) -> None:
        assert self.command is not None
        with suppress(psutil.Error):
            self._family = psutil.Process(self.command.pid).children(recursive=True)

    def _ended(self) -> int:
        """The exit code. Nobody of its family is left, and what was finished is as it was."""
        if self.command is None:
            return 0
        self._look_around()
        self.command.wait(_PATIENCE_SECONDS)
        _, alive = psutil.wait_procs(self._family, timeout=30)
        assert alive == []
        now = {path: identity(path) for path in self.kept if path.exists()}
        assert now == self.kept
        self.kept |= {path: identity(path) for path in self._cells()}
        return self.command.returncode

    def _cells(self) -> list[Path]:
        return list(self.artifacts.glob("finetune/*/manifest.json"))

    # --- what is asked at the end --------------------------------------------------------------
    @property
    def computed(self) -> Counter[str]:
        """How often each cell was said to be computed, over all commands."""
        return Counter(_COMPUTED.findall(self.log.read_text()))

    def tracked(self) -> Counter[tuple[str, str]]:
        """MLflow's runs by artefact and status."""
        client = MlflowClient(self.mlflow.database)
        experiment = client.get_experiment_by_name(f"lensllm/{NAME}")
        assert experiment is not None
        found, token = Counter[tuple[str, str]](), None
        while True:
            page = client.search_runs(
                [experiment.experiment_id], max_results=1000, page_token=token
            )
            found.update((r.data.tags.get("artefact.key", ""), r.info.status) for r in page)
            token = page.token
            if not token:
                return found


def final_tables(artifacts: Path) -> dict[str, bytes]:
    """The bytes of the final tables, by stage, key and name."""
    return {
        path.relative_to(artifacts).as_posix(): path.read_bytes()
        for stage in FINAL
        for path in (artifacts / stage).rglob("*.parquet")
    }


def leftovers(artifacts: Path) -> list[str]:
    """Locks, drafts, and runs that the Prefect pages show as unfinished."""
    files = [p.name for sub in (".tmp", ".locks", ".partial") for p in (artifacts / sub).glob("*")]
    with sqlite3.connect(artifacts / "prefect" / "prefect.db") as database:
        unfinished = "state_type IN ('RUNNING', 'PENDING', 'SCHEDULED', 'CANCELLING')"
        rows = database.execute(
            f"SELECT name FROM task_run WHERE {unfinished} "
            f"UNION ALL SELECT name FROM flow_run WHERE {unfinished}"
        ).fetchall()
    return [*files, *(name for (name,) in rows)]


def wait(condition, what: str) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {_PATIENCE_SECONDS:g} s"
        time.sleep(0.05)


def _is_worker(process: psutil.Process) -> bool:
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    return any("spawn_main" in word for word in words)


def identity(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_ino, state.st_mtime_ns
