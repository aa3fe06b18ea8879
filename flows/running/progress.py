"""Progress of a run: its counts, and the terminal's live screen or plain lines."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tasks.base.step import Step


@dataclass
class Tally:
    """Counts of one run's steps, kept by an observer, which holds a lock around each call."""

    planned: dict[str, Step] = field(default_factory=dict)  # by key, not yet settled
    running: dict[str, tuple[Step, float]] = field(default_factory=dict)  # step and when it began
    cached: Counter[str] = field(default_factory=Counter)  # by stage
    computed: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)  # for want of something that failed
    # time spent computing, and weights of what was computed, by stage
    seconds: defaultdict[str, float] = field(default_factory=partial(defaultdict, float))
    weights: defaultdict[str, float] = field(default_factory=partial(defaultdict, float))

    def plan(self, steps: Sequence[Step]) -> None:
        """Add steps that are to come."""
        self.planned |= {step.ref.key: step for step in steps}

    def start(self, step: Step) -> None:
        """Note that a step, which is not cached, begins."""
        self.planned.pop(step.ref.key, None)
        self.running[step.ref.key] = (step, time.monotonic())

    def finish(self, step: Step, seconds: float, *, cached: bool) -> None:
        """Note that a step's artefact is there."""
        self.settle(step, self.cached if cached else self.computed)
        if not cached:
            # The time includes waiting for a slot, so the flow has as many threads as slots: with
            # more, the waits would be counted as work.
            self.seconds[step.stage] += seconds
            self.weights[step.stage] += step.weight

    def settle(self, step: Step, outcome: Counter[str]) -> None:
        """Count a step that is over in ``outcome``, one of the counters above."""
        self.planned.pop(step.ref.key, None)
        self.running.pop(step.ref.key, None)
        outcome[step.stage] += 1

    @property
    def settled(self) -> int:
        return sum(map(Counter.total, (self.cached, self.computed, self.failed, self.skipped)))

    @property
    def total(self) -> int:
        return self.settled + len(self.planned) + len(self.running)

    def seconds_left(self, slots: int) -> float | None:
        """Seconds left by each stage's speed so far; None while a stage to come has none yet."""
        total = 0.0
        for step in [*self.planned.values(), *(s for s, _ in self.running.values())]:
            if not step.in_worker:
                continue
            if not self.weights[step.stage]:
                return None
            total += step.weight * self.seconds[step.stage] / self.weights[step.stage]
        spent = sum(time.monotonic() - begin for _, begin in self.running.values())
        return max(0.0, total - spent) / slots


class Terminal:
    """Observer that shows a run: a live screen on a terminal, elsewhere a line per artefact."""

    def __init__(self, console: Console, slots: int) -> None:
        self.tally = Tally()
        self._console = console
        self._slots = slots
        self._lock = threading.Lock()
        self._begin = time.monotonic()
        self._live = (
            Live(get_renderable=self._screen, console=console, transient=True, refresh_per_second=4)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Terminal:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print a line that stays, above the live screen."""
        self._console.print(Text(text, style="bold"), soft_wrap=True)

    # --- Observer ----------------------------------------------------------------------------
    def planned(self, steps: Sequence[Step]) -> None:
        with self._lock:
            self.tally.plan(steps)

    def started(self, step: Step) -> None:
        with self._lock:
            self.tally.start(step)

    def finished(self, step: Step, seconds: float, *, cached: bool, note: str = "") -> None:
        with self._lock:
            self.tally.finish(step, seconds, cached=cached)
            if step.in_worker and not cached:
                said = f" {note}" if note else ""
                self._line(f"{self._place()} {step.label} ({seconds:.1f} s){said}")

    def failed(self, step: Step, reason: str) -> None:
        with self._lock:
            self.tally.settle(step, self.tally.failed)
        self._console.print(Text(f"failed: {step.label}: {reason}", style="red"), soft_wrap=True)

    def skipped(self, step: Step) -> None:
        with self._lock:
            self.tally.settle(step, self.tally.skipped)

    def _place(self) -> str:
        return f"[{self.tally.settled}/{self.tally.total}]"

    def _line(self, text: str) -> None:
        if not self._live:
            self._console.print(Text(text), soft_wrap=True)

    # --- the live screen -----------------------------------------------------------------------
    def _screen(self) -> RenderableType:
        with self._lock:
            tally = self.tally
            left = tally.seconds_left(self._slots)
            counts = f"{tally.computed.total()} computed · {tally.cached.total()} cached"
            if tally.failed:
                counts += f" · [red]{tally.failed.total()} failed[/red]"
            head = Table.grid(padding=(0, 1))
            head.add_row(
                ProgressBar(total=max(1, tally.total), completed=tally.settled, width=32),
                f"{tally.settled}/{tally.total}",
                counts,
                f"{clock(time.monotonic() - self._begin)} so far"
                + (f", about {clock(left)} left" if left is not None and tally.planned else ""),
            )
            rows = [
                Text(f"  {step.label}  {clock(time.monotonic() - begin)}", style="cyan")
                for step, begin in tally.running.values()
            ]
            return Group(head, *rows)


def clock(seconds: float) -> str:
    """Minutes and seconds, or hours: ``75`` → ``1:15``; ``3700`` → ``1:01:40``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
