"""The terminal of a command: a console that nothing steers, and the progress of a run on it."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from lensllm.core.secrets import mask
from tasks.base.step import Step

if TYPE_CHECKING:
    from flows.server.prefect_server import Server

# C0 and C1 but for tab and newline, and the marks that turn the direction of text.
_CONTROLS = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)), "�")
_CONTROLS |= dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), "�")


class SafeConsole(Console):
    """A console that shows control characters of what it prints as ``�`` and masks secrets.

    Names of candidates, texts of data and messages of libraries come from elsewhere: an escape
    sequence in them could set the terminal's title or clipboard, or hide other lines.
    """

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield segment._replace(text=mask(segment.text).translate(_CONTROLS))


def page_address(server: Server, console: Console) -> str:
    """The address of the server's page: on a terminal a link that lets one browser in.

    Output that goes to a file may be read by others, so it gets the plain address.
    """
    if console.is_terminal or not server.secret:
        return server.entry_link()
    return f"{server.page} (lensllm ui opens it)"


@dataclass
class Tally:
    """Counts of one run's steps, kept by an observer, which holds a lock around each call."""

    planned: dict[str, Step] = field(default_factory=dict)  # by key, not yet settled
    running: dict[str, tuple[Step, float]] = field(default_factory=dict)  # step and when it began
    done: Counter[str] = field(default_factory=Counter)  # computed, by stage
    cached: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)  # made from an artefact that failed
    # time spent computing, and weights of what was computed, by stage
    seconds: defaultdict[str, float] = field(default_factory=partial(defaultdict, float))
    weights: defaultdict[str, float] = field(default_factory=partial(defaultdict, float))

    def plan(self, steps: Sequence[Step]) -> None:
        """Add steps that are to come."""
        self.planned |= {step.ref.key: step for step in steps}

    def change(self, step: Step, state: str, seconds: float = 0.0) -> None:
        """Count a step that is now running, done, cached, failed or skipped."""
        self.planned.pop(step.ref.key, None)
        self.running.pop(step.ref.key, None)
        if state == "running":
            self.running[step.ref.key] = (step, time.monotonic())
            return
        counts: Counter[str] = getattr(self, state)
        counts[step.stage] += 1
        if state == "done":
            # The time includes waiting for a slot, so the flow has as many threads as slots: with
            # more, the waits would be counted as work.
            self.seconds[step.stage] += seconds
            self.weights[step.stage] += step.weight

    @property
    def settled(self) -> int:
        return sum(map(Counter.total, (self.done, self.cached, self.failed, self.skipped)))

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


class TallyObserver:
    """Observer that keeps a tally; subclasses show it in ``_update``, which holds the lock."""

    def __init__(self, slots: int) -> None:
        self.tally = Tally()
        self._slots = slots
        self._lock = threading.Lock()

    def planned(self, steps: Sequence[Step]) -> None:
        with self._lock:
            self.tally.plan(steps)

    def changed(self, step: Step, state: str, seconds: float = 0.0, text: str = "") -> None:
        with self._lock:
            self.tally.change(step, state, seconds)
            self._update(step, state, seconds, text)

    def _update(self, step: Step, state: str, seconds: float, text: str) -> None:
        """Show that a step has changed."""


class Terminal(TallyObserver):
    """Observer that shows a run: a live screen on a terminal, elsewhere a line per artefact."""

    def __init__(self, console: Console, slots: int) -> None:
        super().__init__(slots)
        self._console = console
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

    def print(self, text: str, style: str = "bold") -> None:
        """Print a line that stays, above the live screen."""
        self._console.print(Text(text, style=style), soft_wrap=True)

    def changed(self, step: Step, state: str, seconds: float = 0.0, text: str = "") -> None:
        super().changed(step, state, seconds, text)
        if state == "failed":  # without the lock, which the live screen takes in its own
            self.print(f"failed: {step.label}: {text}", style="red")

    def _update(self, step: Step, state: str, seconds: float, text: str) -> None:
        if state == "done" and step.in_worker and not self._live:
            place = f"[{self.tally.settled}/{self.tally.total}]"
            line = f"{place} {step.label} ({seconds:.1f} s) {text}".rstrip()
            self.print(line, style="")

    def _screen(self) -> RenderableType:
        with self._lock:
            tally = self.tally
            left = tally.seconds_left(self._slots)
            counts = f"{tally.done.total()} computed · {tally.cached.total()} cached"
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
