"""What surrounds the cells: pipeline over bare cells, a run with nothing to do, memory, scaling.

    python -m bench platform

It runs the real command in folders of its own, with server and MLflow as users have them: ``demo``
twice from pretrained candidates, on one core and on two, and the sweep of 1,000 cells of
``tests/stress.py`` until it is done and then again; twelve minutes on two idle cores. Data and
candidates of ``demo`` are taken from ``artifacts/``, which ``lensllm run demo`` fills.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import psutil

from bench.timing import markdown
from tests import stress

ROOT = Path(__file__).parents[1]
_COMMAND = [str(Path(sys.executable).with_name("lensllm"))]
_MADE_BEFORE = ("dataset", "sample", "pretext", "tokenizer", "pretrain", "tokens")
_MEGABYTE = 1e6
COLUMNS = ["run", "cells", "until the server", "after it", "per cell", "processor, command",
           "server", "peak of the command", "load"]  # fmt: skip


@dataclass
class Ran:
    """One run of the command."""

    seconds: float = 0.0  # from its start to its end
    until_server: float = 0.0  # of these, until the server's address was told
    peak_bytes: int = 0  # resident, of the command's own process
    own_cpu_seconds: float = 0.0  # of the command's own process
    server_cpu_seconds: float = 0.0  # of the Prefect server that it starts
    load: float = 0.0  # average of the machine over the run
    summary: dict = field(default_factory=dict)


def run(artifacts: Path, *arguments: str, cores: int = 0) -> Ran:
    """``lensllm run`` to its end, watched from outside, on so many cores if not on all."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))}
    ran, begin, loads = Ran(), time.monotonic(), []
    command = subprocess.Popen(
        [*_COMMAND, "run", *arguments, "--artifacts", str(artifacts), "--json"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=(lambda: os.sched_setaffinity(0, range(cores))) if cores else None,
    )
    said: list[str] = []

    def listen() -> None:
        for line in command.stderr or ():
            if "Prefect UI" in line and not ran.until_server:
                ran.until_server = time.monotonic() - begin
            said.append(line)

    listener = threading.Thread(target=listen)
    output: list[str] = []
    reader = threading.Thread(target=lambda: output.append(command.stdout.read()))
    listener.start()
    reader.start()
    process = psutil.Process(command.pid)
    while command.poll() is None:
        loads.append(os.getloadavg()[0])
        with suppress(psutil.Error):
            ran.peak_bytes = max(ran.peak_bytes, process.memory_info().rss)
            ran.own_cpu_seconds = sum(process.cpu_times()[:2])
            for child in process.children():
                with suppress(psutil.Error):  # a worker may end at any moment
                    if "flows.server.child" in child.cmdline():
                        ran.server_cpu_seconds = sum(child.cpu_times()[:2])
        time.sleep(0.25)
    command.wait()
    listener.join()
    reader.join()
    ran.seconds, ran.load = time.monotonic() - begin, sum(loads) / max(1, len(loads))
    if command.returncode:
        raise SystemExit("".join(said[-20:]))
    ran.summary = json.loads(output[0])
    return ran


@dataclass(frozen=True)
class Sweep:
    """The cells of a run as the server saw them, and as the workers measured them."""

    cells: int
    wall_seconds: float  # from the first cell's start to the last one's end
    busy_seconds: float  # of the workers in cells
    task_seconds: float  # of the cells' task runs
    ending_seconds: float  # in which fewer cells than slots were left

    def overhead(self, slots: int) -> float:
        """Share of the slots' time that went into no cell, but for the end, when none was left."""
        return 1 - self.busy_seconds / (slots * self.wall_seconds - self.ending_seconds)


def sweep(artifacts: Path, slots: int) -> Sweep:
    """Of the last run in ``artifacts``."""
    with sqlite3.connect(artifacts / "prefect" / "prefect.db") as database:
        latest = "SELECT id FROM flow_run ORDER BY created DESC LIMIT 1"
        tasks = pd.read_sql_query(
            f"SELECT name, start_time, end_time FROM task_run WHERE flow_run_id = ({latest}) "
            "AND name LIKE 'finetune %' AND state_name != 'Cached'",
            database,
        )
    begin, end = (
        pd.to_datetime(tasks[c]).astype("datetime64[ns]").astype("int64") / 1e9
        for c in ("start_time", "end_time")
    )
    cells = pd.concat(
        pd.read_parquet(path) for path in (artifacts / "finetune").glob("*/cell.parquet")
    )
    last = end.nlargest(slots)  # when each slot ran out of cells
    return Sweep(
        len(tasks),
        float(end.max() - begin.min()),
        float(cells["seconds"].sum()),
        float((end - begin).sum()),
        float((end.max() - last).sum()),
    )


def _demo(folder: Path, slots: int) -> tuple[Ran, Sweep]:
    """The cells of ``demo``, trained from candidates that are there, on a core per slot: a slot
    would have the threads of two."""
    for stage in _MADE_BEFORE:
        shutil.copytree(ROOT / "artifacts" / stage, folder / stage)
    ran = run(folder, "demo", "--set", "curvature.sizes=[]", "--set", "kernel.enabled=false",
              "--set", f"engine.slots={slots}", cores=slots)  # fmt: skip
    return ran, sweep(folder, slots)


def _overhead(ran: Ran, seen: Sweep) -> list[str]:
    return [
        "demo, 2 slots",
        str(seen.cells),
        f"{seen.wall_seconds:.1f} s",
        f"{seen.busy_seconds:.1f} s",
        f"{seen.overhead(2):.1%}",
        f"{1 - seen.busy_seconds / seen.task_seconds:.1%}",
        f"{ran.load:.1f}",
    ]


def _scaling(one: Sweep, two: Sweep) -> list[list[str]]:
    """The wall's ratio is what a second worker brings; the cells' ratio is what the machine makes
    of two at once, whoever starts them; both without the end, when one slot had no cell left."""
    walls = [one.wall_seconds, two.wall_seconds - two.ending_seconds / 2]
    rows = [
        [str(slots), f"{wall:.1f} s", f"{seen.busy_seconds:.1f} s"]
        for slots, wall, seen in zip((1, 2), walls, (one, two), strict=True)
    ]
    cells = two.busy_seconds / one.busy_seconds
    return [*rows, ["ratio", f"{walls[0] / walls[1]:.2f}", f"{cells:.2f}"]]


def _stress(folder: Path, candidates: int, seeds: int) -> tuple[Path, Path]:
    return stress.write_pipeline(folder, candidates, 10, seeds), folder / "artifacts"


def nothing_to_do(file: Path, artifacts: Path, rounds: int = 3) -> list[Ran]:
    return [run(artifacts, stress.NAME, "--file", str(file)) for _ in range(rounds)]


def row(name: str, cells: int, runs: Sequence[Ran]) -> list[str]:
    best = min(runs, key=lambda ran: ran.seconds - ran.until_server)
    after = best.seconds - best.until_server
    return [
        name,
        str(cells),
        f"{best.until_server:.1f} s",
        f"{after:.1f} s",
        f"{1000 * after / cells:.1f} ms",
        f"{best.own_cpu_seconds:.1f} s",
        f"{best.server_cpu_seconds:.1f} s",
        f"{max(r.peak_bytes for r in runs) / _MEGABYTE:.0f} MB",
        f"{best.load:.1f}",
    ]


def table() -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file, artifacts = _stress(folder / "thousand", candidates=10, seeds=10)
        first = run(artifacts, stress.NAME, "--file", str(file))
        made = sweep(artifacts, os.cpu_count() or 1)
        again = nothing_to_do(file, artifacts)
        parts = [
            markdown(
                "A run of 1,000 cells that trains, then runs with nothing to do (best of 3)",
                COLUMNS,
                [row("that trains", made.cells, [first]), row("again", made.cells, again)],
            ),
        ]
        if (ROOT / "artifacts" / "pretrain").is_dir():
            _, one = _demo(folder / "one", 1)
            ran, two = _demo(folder / "two", 2)
            columns = ["run", "cells", "wall", "in cells", "not in cells", "of a task", "load"]
            parts.append(markdown("Overhead over the bare cells", columns, [_overhead(ran, two)]))
            columns = ["slots", "wall", "in cells"]
            parts.append(markdown("Scaling of demo", columns, _scaling(one, two)))
        return "\n".join(parts)
