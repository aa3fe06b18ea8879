"""What ``lensllm status`` tells of a sweep that another process runs, of a thousand cells too."""

import io
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows.cli.status import Grid, grid, screen
from flows.running import journal
from flows.running.journal import Journal, Progress
from lensllm.core.processes import started
from lensllm.store.artifacts import Recipe, Store
from tasks.base.step import Cell, Step
from tasks.planning.plan import make_plan
from tests.tasks import project

ME = {"host": socket.gethostname(), "pid": os.getpid(), "start": started(os.getpid())}


def progress(**changes: Any) -> Progress:
    counts = {"settled": 420, "total": 1024, "computed": 400, "cached": 20, "skipped": 0}
    times = {"began": 1_790_000_000.0, "written": 1_790_000_600.0, "elapsed": 600.0}
    times["seconds_left"] = 900.0
    return Progress(**{**ME, **counts, **times, "ended": False, **changes})


def drawn(found: Grid, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(screen("stress", found, width))
    return console.file.getvalue().splitlines()


@pytest.fixture
def thousand() -> Grid:
    """Ten candidates, ten sizes, ten repeats: some done, one running, two failed."""
    states = {}
    for place in range(1000):
        cell = Cell(f"mamba-{place // 10 % 10}", 4 * (1 + place // 100), place % 10)
        states[cell] = "done" if place < 427 else "to come"
    states[Cell("mamba-2", 20, 7)] = "running"
    failures = {}
    for repeat in (0, 1):
        states[Cell("mamba-9", 16, repeat)] = "failed"
        failures[f"finetune mamba-9 · D=16 · repeat {repeat}"] = "out of memory"
    sizes = tuple(4 * (1 + place) for place in range(10))
    running = ("finetune mamba-2 · D=20 · repeat 7",)
    return Grid(sizes, 48, states, {"tokens": (1, 1)}, progress(running=running), failures)


def test_a_thousand_cells_fit_a_terminal(thousand: Grid) -> None:
    lines = drawn(thousand, 110)
    assert len(lines) < 30
    assert max(map(len, lines)) <= 110
    assert lines[1].startswith("stress: 425 of 1000 cells done")
    two = next(line for line in lines if line.startswith(" mamba-2"))
    assert two.split() == ["mamba-2", *"●●●●", "◐", "7/10", *["0/10"] * 5, "47/100"]
    nine = next(line for line in lines if line.startswith(" mamba-9"))
    assert nine.split() == ["mamba-9", *"●●●", "✗", "8/10", *["0/10"] * 6, "38/100", "2"]
    text = " ".join(" ".join(lines).split())
    assert "420 of 1,024 artefacts, 400 computed (40 a minute), 20 cached" in text
    assert "finetune mamba-2 · D=20 · repeat 7" in text
    assert "failed: finetune mamba-9 · D=16 · repeat 0: out of memory" in text


def test_a_narrow_terminal_gets_a_mark_per_size(thousand: Grid) -> None:
    lines = drawn(thousand, 60)
    assert max(map(len, lines)) <= 60
    two = next(line for line in lines if line.startswith(" mamba-2"))
    assert two.split() == ["mamba-2", "●●●●◐○○○○○", "47/100"]


def test_json_has_every_cell_and_reason(thousand: Grid) -> None:
    said = json.loads(json.dumps(thousand.as_dict, allow_nan=False))
    assert len(said["cells"]) == 1000
    assert {"step": "finetune mamba-9 · D=16 · repeat 1", "reason": "out of memory"} in said[
        "failed"
    ]
    command = said["command"]
    assert (command["alive"], command["per_minute"], command["settled"]) == (True, 40.0, 420)


def test_how_a_command_ended_is_told(thousand: Grid) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        dead = {"pid": process.pid, "start": started(process.pid) or 0.0}
    killed = replace(thousand, progress=progress(**dead))
    assert "The last command was killed" in " ".join(drawn(killed, 110))
    assert "Go on with lensllm run stress" in " ".join(" ".join(drawn(killed, 110)).split())
    ended = replace(thousand, progress=progress(ended=True))
    assert "The last command ended 20" in " ".join(drawn(ended, 110))
    assert "command" not in " ".join(drawn(replace(thousand, progress=None), 110))


def test_a_journal_is_read_by_others(tmp_path: Path) -> None:
    store = Store(tmp_path)
    steps = [Step(f"cell {n}", Recipe("finetune", 1, {"n": n})) for n in range(4)]
    assert journal.read(store, "demo") is None
    with Journal(store, "demo", slots=2) as writer:
        writer.planned(steps)
        writer.changed(steps[0], "running")
        writer.changed(steps[0], "done", 3.0)
        writer.changed(steps[1], "cached")
        writer.changed(steps[3], "running")
        writer.changed(steps[2], "failed", text="out of memory")
        now = journal.read(store, "demo")
        assert now is not None
        assert now.is_alive
        assert (now.settled, now.total, now.computed, now.cached) == (3, 4, 1, 1)
        assert (now.failed, now.running) == ({"cell 2": "out of memory"}, ("cell 3",))
        assert now.seconds_left is not None
        assert 0 <= now.seconds_left <= 1.5  # less what the running step has spent
    after = journal.read(store, "demo")
    assert after is not None
    assert (after.ended, after.is_alive) == (True, False)
    (tmp_path / ".status" / "demo.json").write_text('{"pid": ')
    assert journal.read(store, "demo") is None


def test_a_clock_set_back_does_not_silence_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, now = Store(tmp_path), time.time()
    steps = [Step(f"cell {n}", Recipe("finetune", 1, {"n": n})) for n in range(2)]
    with Journal(store, "demo", slots=1) as writer:
        writer.planned(steps)
        monkeypatch.setattr(time, "time", lambda: now - 86_400)  # by a day
        writer._last_write -= 2
        writer.changed(steps[0], "done", 3.0)
        read = journal.read(store, "demo")
    assert read is not None
    assert (read.computed, read.total) == (1, 2)
    assert read.per_minute == 60.0


def test_a_failure_is_forgotten_once_the_cell_is_there(tmp_path: Path) -> None:
    config = project.changed(
        project.write_inputs(tmp_path), curvature={"sizes": []}, heavy_tails={"enabled": False}
    )
    store = Store(tmp_path / "artifacts")
    store.prepare()
    plan = make_plan(config, store)
    first, *_ = plan.cells.items()
    told = progress(failed={first[1].label: "out of memory"})
    found = grid(plan, told)
    assert found.states[first[0]] == "failed"
    assert found.failures == {first[1].label: "out of memory"}
    project.make_all(store, plan.preparation)
    project.make_all(store, [first[1]])
    found = grid(plan, told)
    assert (found.states[first[0]], found.failures) == ("done", {})
