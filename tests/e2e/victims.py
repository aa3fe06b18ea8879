"""Who is killed: commands with their families, and a tracking server."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

import psutil
from mlflow import MlflowClient

from flows.server.loopback import answers
from tests.e2e.conftest import ROOT, environment
from tests.e2e.observe import MARK
from tests.stress import NAME
from tests.waiting import wait

# A shell starts background jobs deaf to SIGINT, and whatever they start inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Mlflow:
    """A tracking server of our own, which comes back at the same address."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "tracking.db"
        self.database = f"sqlite:///{self.path}"
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

    def runs(self) -> int:
        """How many runs it has begun."""
        try:
            with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as opened:
                return int(opened.execute("SELECT count(*) FROM runs").fetchone()[0])
        except sqlite3.Error:  # being made, or written this moment
            return 0

    def tracked(self) -> Counter[tuple[str, str]]:
        """Its runs by artefact and status."""
        client = MlflowClient(self.database)
        experiment = client.get_experiment_by_name(f"lensllm/{NAME}")
        assert experiment is not None
        page = client.search_runs([experiment.experiment_id], max_results=1000)
        return Counter((run.data.tags.get("artefact.key", ""), run.info.status) for run in page)


class Command:
    """One ``lensllm run``."""

    def __init__(self, arguments: list[str], log: Path, mark: str) -> None:
        self.log = log
        self.began = time.time()
        self.hurt = False  # a worker of it was killed, which fails a cell
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                arguments, cwd=ROOT, env={**environment(), MARK: mark}, stdout=stream,
                stderr=stream,
            )  # fmt: skip

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    @property
    def said(self) -> str:
        return self.log.read_text()

    def workers(self) -> list[int]:
        with suppress(psutil.Error):
            family = psutil.Process(self.process.pid).children(recursive=True)
            return [p.pid for p in family if is_spawned(p)]
        return []


def send(pid: int | None, way: signal.Signals) -> bool:
    if pid is None:
        return False
    try:
        os.kill(pid, way)
    except ProcessLookupError:
        return False
    return True


def is_spawned(process: psutil.Process) -> bool:
    """Return whether multiprocessing started the process, as it starts workers and runs."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    return any("spawn_main" in word for word in words)
