"""Checkpoints of a long cell, from which a killed one resumes, to the same bits on a CPU.

A checkpoint is one safetensors file, ``<step>-<rank>-of-<ranks>.safetensors``, that is replaced
whole and holds other values as JSON in its header. ``spent.json`` has the seconds of all attempts.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lensllm.training.ranks import ALONE, Ranks

log = logging.getLogger("lensllm.training")
_SPENT = "spent.json"
_BEAT_SECONDS = 1.0  # interval at which the time of an attempt is written


# JSON values and tensors, on the CPU, that a cell resumes from.
Checkpoint = tuple[dict[str, Any], dict[str, Tensor]]


class Checkpoints:
    """Checkpoints of one cell, in a folder that only one attempt at a time uses.

    ``made_by`` holds versions and device; a checkpoint of others is not used.
    """

    def __init__(
        self, folder: Path, every_seconds: float, made_by: Mapping[str, Any], ranks: Ranks = ALONE
    ) -> None:
        self._folder, self._every, self._ranks = folder, every_seconds, ranks
        self._made_by = dict(made_by)
        self._began = self._last = self._beat = time.monotonic()
        self.seconds_before = 0.0  # of earlier attempts
        with suppress(OSError, ValueError, KeyError, TypeError):
            self.seconds_before = float(json.loads((folder / _SPENT).read_text())["seconds"])

    def due(self) -> bool:
        """True if it is time for another checkpoint; to be called after every step."""
        now = time.monotonic()
        if self._ranks.first and now - self._beat >= _BEAT_SECONDS:
            self._beat = now
            self._note_time()
        return self._ranks.broadcast(now - self._last >= self._every)

    def save(self, step: int, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Write this rank's checkpoint; earlier ones are deleted once all ranks have written."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / self._name(step, self._ranks.rank)
        whole = path.with_suffix(".new")
        header = json.dumps({"made_by": self._made_by, "state": dict(state)})
        save_file({k: t.contiguous() for k, t in tensors.items()}, whole, {"lensllm": header})
        with whole.open("rb") as written:
            os.fsync(written.fileno())
        whole.replace(path)
        self._ranks.wait()
        if self._ranks.first:
            self._note_time()
            for other in self._folder.iterdir():
                if other.name != _SPENT and not other.name.startswith(f"{step}-"):
                    other.unlink(missing_ok=True)
        self._last = time.monotonic()

    def load(self) -> Checkpoint | None:
        """This rank's part of the latest checkpoint that all ranks have; None without one."""
        steps = {int(p.name.split("-", 1)[0]) for p in self._folder.glob("*-0-of-*.safetensors")}
        for step in sorted(steps, reverse=True):
            paths = [self._folder / self._name(step, rank) for rank in range(self._ranks.size)]
            if all(path.is_file() for path in paths):
                return self._read(paths[self._ranks.rank])
        return None

    def _read(self, path: Path) -> Checkpoint | None:
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads(file.metadata()["lensllm"])
                if header["made_by"] != self._made_by:
                    log.warning("a checkpoint of other versions or another device is left unused")
                    return None
                return header["state"], {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            log.warning("the checkpoint %s cannot be read (%s); the cell begins anew", path, error)
            return None

    def _name(self, step: int, rank: int) -> str:
        return f"{step}-{rank}-of-{self._ranks.size}.safetensors"

    def _note_time(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        whole = self._folder / f"{_SPENT}.new"
        seconds = self.seconds_before + time.monotonic() - self._began
        whole.write_text(json.dumps({"seconds": seconds}))
        whole.replace(self._folder / _SPENT)
