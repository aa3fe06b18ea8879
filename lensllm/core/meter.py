"""Seconds and peak memory of a stage on this machine, and the versions of its software."""

from __future__ import annotations

import platform
import resource
import sys
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


class Meter:
    """Measures seconds and peak memory from its creation on."""

    def __init__(self, device: torch.device) -> None:
        self._begin = time.perf_counter()
        self._device = device
        if device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(device)
        elif _CLEAR.exists():
            with suppress(OSError):  # sandboxes may forbid it; the peak is then the process's
                _CLEAR.write_text("5")  # Linux: forget the peak, so that it is this stage's own

    def seconds(self) -> float:
        return time.perf_counter() - self._begin

    def peak_memory_bytes(self) -> int:
        """Peak memory of the device in bytes; of the whole process on a CPU."""
        if self._device.type == "cuda":
            import torch

            return int(torch.cuda.max_memory_allocated(self._device))
        if _STATUS.exists():
            line = next(r for r in _STATUS.read_text().splitlines() if r.startswith("VmHWM"))
            return int(line.split()[1]) * 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def versions() -> dict[str, str]:
    """Versions of the software that determines a result, by package."""
    packages = ("lensllm", "torch", "transformers", "tokenizers", "numpy")
    return {"python": platform.python_version(), **{p: version(p) for p in packages}}
