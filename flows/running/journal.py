"""The progress of a command for other processes: ``artifacts/.status/<name>.json``.

``lensllm status`` reads the file. The store holds results alone: it cannot say which command makes
them, how fast, and which failed and why. With two commands on one pipeline the file shows the one
that wrote last.
"""

from __future__ import annotations

import json
import math
import os
import socket
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from flows.running.terminal import TallyObserver
from lensllm.core.processes import alive, started
from lensllm.store.artifacts import Store
from tasks.base.step import Step

_SECONDS_BETWEEN_WRITES = 1.0
# A process of another machine counts as alive for as long after its last write as the longest cells
# take: it writes when a step begins or ends.
_SILENCE_SECONDS = 6 * 3600.0


@dataclass(frozen=True)
class Progress:
    """The progress of a command, as it was written last."""

    host: str
    pid: int
    start: float  # of the process, seconds since 1970
    began: float  # of the run
    written: float
    elapsed: float  # seconds from began to written, whatever was done to the clock
    ended: bool
    settled: int  # artefacts made, found, failed or skipped
    total: int  # of those named so far
    computed: int
    cached: int
    skipped: int
    seconds_left: float | None  # None: no stage's speed is known yet
    running: tuple[str, ...] = ()  # labels
    failed: dict[str, str] = field(default_factory=dict)  # reason by label

    @property
    def is_alive(self) -> bool:
        """True while the command runs."""
        if self.ended:
            return False
        if self.host != socket.gethostname():
            return time.time() - self.written < _SILENCE_SECONDS
        return alive(self.pid, self.start)

    @property
    def per_minute(self) -> float:
        """Artefacts computed per minute, over the whole run."""
        return 60 * self.computed / max(1.0, self.elapsed)


def read(store: Store, name: str) -> Progress | None:
    """The progress of the last command on pipeline ``name``; None without a file in this format."""
    try:
        content = json.loads(_path(store, name).read_text(encoding="utf-8"))
        return Progress(**{**content, "running": tuple(content["running"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


class Journal(TallyObserver):
    """Observer that keeps the file up to date within its context."""

    def __init__(self, store: Store, name: str, slots: int) -> None:
        super().__init__(slots)
        self._path = _path(store, name)
        self._failed: dict[str, str] = {}
        self._began, self._begin = time.time(), time.monotonic()
        self._last_write = -math.inf  # time.monotonic(): the other clock may be set back

    def __enter__(self) -> Journal:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._write()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._write(ended=True)

    def _update(self, step: Step, state: str, seconds: float, text: str) -> None:
        if state == "failed":
            self._failed[step.label] = text
        if state == "failed" or time.monotonic() - self._last_write > _SECONDS_BETWEEN_WRITES:
            self._write()

    def _write(self, *, ended: bool = False) -> None:
        tally = self.tally
        self._last_write = time.monotonic()
        now = Progress(
            host=socket.gethostname(),
            pid=os.getpid(),
            start=started(os.getpid()) or 0.0,
            began=self._began,
            written=time.time(),
            elapsed=time.monotonic() - self._begin,
            ended=ended,
            settled=tally.settled,
            total=tally.total,
            computed=tally.done.total(),
            cached=tally.cached.total(),
            skipped=tally.skipped.total(),
            seconds_left=tally.seconds_left(self._slots),
            running=tuple(step.label for step, _ in tally.running.values()),
            failed=self._failed,
        )
        draft = self._path.with_suffix(f".{os.getpid()}.new")
        draft.write_text(json.dumps(asdict(now)), encoding="utf-8")
        draft.replace(self._path)  # a reader sees the old file or the new one


def _path(store: Store, name: str) -> Path:
    return store.root / ".status" / f"{name}.json"
