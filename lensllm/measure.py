"""What a stage used of this machine: seconds and peak memory, and the versions that ran."""

from __future__ import annotations

import json
import platform
import resource
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass
class Meter:
    """Started when made; read with ``seconds()`` and ``peak_memory_bytes()``."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        self._begin = time.perf_counter()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif _CLEAR.exists():
            with suppress(OSError):  # sandboxes may forbid it; the peak is then the process's
                _CLEAR.write_text("5")  # Linux: forget the peak, so that it is this stage's own

    def seconds(self) -> float:
        return time.perf_counter() - self._begin

    def peak_memory_bytes(self) -> int:
        """Of the device; of the whole process on a CPU."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        if _STATUS.exists():
            line = next(r for r in _STATUS.read_text().splitlines() if r.startswith("VmHWM"))
            return int(line.split()[1]) * 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def versions() -> dict[str, str]:
    """The software that determines a result."""
    packages = ("lensllm", "torch", "transformers", "tokenizers", "numpy")
    return {"python": platform.python_version(), **{p: version(p) for p in packages}}


def versions_json() -> str:
    return json.dumps(versions(), sort_keys=True)
