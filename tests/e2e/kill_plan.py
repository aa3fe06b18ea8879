"""Who is killed when, and by which signal."""

from __future__ import annotations

import random
import signal
import threading
from itertools import product

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
COMMAND_ALONE, SERVER_FIRST = "command", "server, then command"
ONE_OF_TWO, BOTH = "one of two commands", "both commands"
_ANY = (COMMAND_ALONE, SERVER_FIRST, "worker", "Prefect server", "MLflow server")
# Who is killed when, in the order of a sweep; the longest time from noticing a moment to the kill.
MOMENTS: dict[str, tuple[tuple[str, ...], float]] = {
    "imports": ((COMMAND_ALONE,), 2.5),
    "server start": ((COMMAND_ALONE, SERVER_FIRST, "Prefect server"), 3.0),
    "data": (_ANY, 0.3),
    "tokens": (_ANY, 0.3),
    "training": (_ANY, 1.0),
    "publishing": (_ANY, 0.0),
    "ranking": (_ANY, 0.1),
    "report": (_ANY, 0.3),
    "MLflow": (_ANY, 0.1),
    "shutdown": ((COMMAND_ALONE, SERVER_FIRST, "Prefect server", "MLflow server"), 3.0),
    "printed": ((COMMAND_ALONE,), 0.0),
}

Kill = tuple[str, str, signal.Signals]  # moment, victim and signal


class Plan:
    """Who is killed how at each moment: every pair in turn, those that were missed first."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self._due: dict[str, list[tuple[str, signal.Signals]]] = {name: [] for name in MOMENTS}
        self._lock = threading.Lock()

    def take(self, moment: str) -> tuple[str, signal.Signals]:
        with self._lock:
            due = self._due[moment]
            if not due:
                due += product(MOMENTS[moment][0], SIGNALS)
                self._draw.shuffle(due)
            return due.pop()

    def give_back(self, moment: str, pair: tuple[str, signal.Signals]) -> None:
        with self._lock:
            self._due[moment].append(pair)
