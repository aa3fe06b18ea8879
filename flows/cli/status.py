"""``lensllm status``: the state of every cell, and the progress of the command that makes them."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flows.running.journal import Progress
from flows.running.terminal import clock
from lensllm.store.artifacts import Ref
from tasks.base.plan import Plan
from tasks.base.step import Cell
from tasks.planning.rounds import sweep

_MARKS = {  # in the order in which one of several repeats speaks for all
    "failed": "[red]✗[/red]",
    "running": "[cyan]◐[/cyan]",
    "done": "[green]●[/green]",
    "to come": "[dim]○[/dim]",
    "dropped": "[dim]–[/dim]",
}
_PARTLY = "[green]◔[/green]"  # some repeats are done, none runs
_MOST_MARKS = 3  # repeats that are drawn one by one; more are counted
_MOST_FAILURES = 10  # on a terminal; JSON has all
_OTHER_COLUMNS = 24  # characters of the columns that are no sizes
_COLUMN_GAP = 3  # characters between two columns


@dataclass(frozen=True)
class Grid:
    """The state of every cell: done, running, failed, to come, or not wanted by the policy."""

    sizes: tuple[int, ...]
    target: int
    states: dict[Cell, str]
    others: dict[str, tuple[int, int]]  # stage → (artefacts, of which done)
    progress: Progress | None  # of the last command; None: none has run
    failures: dict[str, str]  # reason by label, of what is not there

    @property
    def as_dict(self) -> dict[str, Any]:
        """The content of ``--json``."""
        return {
            "target": self.target,
            "cells": [{**vars(cell), "state": state} for cell, state in self.states.items()],
            "stages": {s: {"artefacts": n, "done": d} for s, (n, d) in self.others.items()},
            "failed": [{"step": label, "reason": why} for label, why in self.failures.items()],
            "command": _command_dict(self.progress) if self.progress else None,
        }


def grid(plan: Plan, progress: Progress | None = None) -> Grid:
    """Look up every artefact of the plan; one that another process computes holds its lock."""
    store, others = plan.store, dict[str, tuple[int, int]]()
    for step in plan.steps:
        if step.stage != "finetune":
            made, done = others.get(step.stage, (0, 0))
            others[step.stage] = (made + 1, done + store.has(step.ref))
    now = sweep(plan, lost=lambda ref: False)
    wanted = set(now.cells)
    reached = max(cell.size for cell in wanted if cell.size != plan.target)
    racing = {cell.candidate for cell in wanted if cell.size == reached}
    available = {step.label for step in plan.steps if store.has(step.ref)}
    failed = progress.failed if progress else {}
    failures = {label: why for label, why in failed.items() if label not in available}

    def state(cell: Cell, ref: Ref, label: str) -> str:
        if cell not in wanted:
            out = cell.candidate not in racing and cell.size != plan.target
            return "dropped" if now.over or out else "to come"
        if store.has(ref):
            return "done"
        if store.in_progress(ref):
            return "running"
        return "failed" if label in failures else "to come"

    return Grid(
        sizes=tuple(sorted({cell.size for cell in plan.cells})),
        target=plan.target,
        states={cell: state(cell, step.ref, step.label) for cell, step in plan.cells.items()},
        others=others,
        progress=progress,
        failures=failures,
    )


def _command_dict(progress: Progress) -> dict[str, Any]:
    return {
        "alive": progress.is_alive,
        "ended": progress.ended,
        "host": progress.host,
        "pid": progress.pid,
        "began": progress.began,
        "written": progress.written,
        "settled": progress.settled,
        "total": progress.total,
        "computed": progress.computed,
        "cached": progress.cached,
        "skipped": progress.skipped,
        "per_minute": progress.per_minute,
        "seconds_left": progress.seconds_left,
        "running": list(progress.running),
    }


# --- on a terminal ------------------------------------------------------------------------------
def screen(name: str, grid: Grid, width: int) -> RenderableType:
    """A row per candidate and a column per size or, where they do not fit, one mark per size."""
    cells: dict[tuple[str, int], list[str]] = {}
    for cell, state in grid.states.items():
        cells.setdefault((cell.candidate, cell.size), []).append(state)
    counts = Counter(grid.states.values())
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    table.title = f"[bold]{escape(name)}[/bold]: {counts['done']} of {counts.total()} cells done"
    names = list(dict.fromkeys(cell.candidate for cell in grid.states))
    headings = [_heading(size, grid.target) for size in grid.sizes]
    needed = max(map(len, names)) + _OTHER_COLUMNS + sum(len(h) + _COLUMN_GAP for h in headings)
    wide = needed <= width
    table.add_column("candidate", overflow="fold")
    for heading in headings if wide else [f"{headings[0]} … {headings[-1]}"]:
        table.add_column(heading, justify="center" if wide else "left", no_wrap=True)
    table.add_column("done", justify="right", no_wrap=True)
    table.add_column("failed", justify="right", no_wrap=True)
    for candidate in names:
        rows = [cells.get((candidate, size), []) for size in grid.sizes]
        drawn = [_repeats(row) for row in rows] if wide else ["".join(map(_mark, rows))]
        mine = Counter(state for row in rows for state in row)
        failed = f"[red]{mine['failed']}[/red]" if mine["failed"] else ""
        table.add_row(escape(candidate), *drawn, f"{mine['done']}/{mine.total()}", failed)
    shown = [state for state in _MARKS if counts[state] or state in ("done", "to come")]
    legend = "  ".join(f"{_MARKS[state]} {state}" for state in shown)
    legend += "" if wide else f"  {_PARTLY} partly"
    others = ", ".join(f"{stage} {done}/{made}" for stage, (made, done) in grid.others.items())
    return Group(
        Text(""),
        table,
        Text.from_markup(legend),
        Text(f"Other artefacts: {others}."),
        *_command(name, grid),
    )


def _heading(size: int, target: int) -> str:
    return f"D={size:,}" + (" (target)" if size == target else "")


def _repeats(states: list[str]) -> str:
    """The cells of a candidate at a size: a mark for each, or the number done of many."""
    if len(states) <= _MOST_MARKS:
        return " ".join(_MARKS[state] for state in states)
    done = states.count("done")
    said = f"{done}/{len(states)}" if done < len(states) else _MARKS["done"]
    first = next(state for state in _MARKS if state in states)
    return f"{_MARKS[first]} {said}" if first in ("failed", "running") else said


def _mark(states: list[str]) -> str:
    """One character for the cells of a candidate at a size."""
    if not states:
        return " "
    first = next(state for state in _MARKS if state in states)
    return _PARTLY if first == "done" and "to come" in states else _MARKS[first]


def _command(name: str, grid: Grid) -> list[Text]:
    """The progress of the last command, and what failed in it."""
    last = grid.progress
    if last is None:
        return []
    count = f"{last.settled:,} of {last.total:,} artefacts"
    computed = (
        f"{last.computed:,} computed ({last.per_minute:.3g} a minute), {last.cached:,} cached"
    )
    where = f"process {last.pid} of {last.host}"
    lines = []
    began, written = _local_time(last.began), _local_time(last.written)
    if last.is_alive:
        left = last.seconds_left
        rest = max(0.0, left - (time.time() - last.written)) if left is not None else None
        ahead = f", about {clock(rest)} left" if rest is not None else ""
        lines.append(Text(f"Running since {began}: {count}, {computed}{ahead} ({where})."))
        lines += [Text(f"  {label}", style="cyan") for label in last.running]
    elif last.ended:
        lines.append(Text(f"The last command ended {written}: {count}, {computed}."))
    else:
        lines.append(
            Text(
                f"The last command was killed ({where}; last heard of {written}): "
                f"{count}, {computed}. Go on with lensllm run {name}"
            )
        )
    failures = list(grid.failures.items())
    lines += [
        Text(f"failed: {label}: {why}", style="red") for label, why in failures[:_MOST_FAILURES]
    ]
    if len(failures) > _MOST_FAILURES:
        lines.append(Text(f"… and {len(failures) - _MOST_FAILURES} more in --json.", style="red"))
    return lines


def _local_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")
