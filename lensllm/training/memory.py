"""What fits into memory: found by running out of it, remembered for the next cell.

A batch that does not fit is taken in halves of halves, and at one example at a time activations are
computed again in the backward pass. The loss and its gradients are those of the whole batch either
way, so nothing here is in any key.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import platform
import re
import resource
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch

from lensllm.core.errors import ModelError
from lensllm.models.batch import Example
from lensllm.models.memory import memory

log = logging.getLogger("lensllm.training")
GIB = 2**30
EVALUATION_BATCH = 64
# What allocators say that raise a bare RuntimeError: torch's on a CPU, C++, oneDNN, Apple's.
_COMPLAINTS = (
    "can't allocate memory",
    "out of memory",
    "bad_alloc",
    "could not create a memory object",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether some allocator refused."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and any(words in said for words in _COMPLAINTS)


@dataclass(frozen=True)
class Fit:
    """How much is done at a time."""

    micro_batch: int = 0  # examples of an optimiser step at a time; 0: all of them
    checkpointing: bool = False  # activations are computed again in the backward pass
    evaluation_batch: int = EVALUATION_BATCH

    def smaller(self, batch: int, can_checkpoint: bool) -> Fit | None:
        """The next thing to try for a step of ``batch`` examples; None when nothing is left."""
        now = min(self.micro_batch or batch, batch)
        if now > 1:
            return replace(self, micro_batch=(now + 1) // 2)
        if can_checkpoint and not self.checkpointing:
            return replace(self, micro_batch=1, checkpointing=True)
        return None

    def and_of(self, other: Fit) -> Fit:
        """The more careful of both in everything."""
        sizes = [f.micro_batch for f in (self, other) if f.micro_batch]
        return Fit(
            min(sizes, default=0),
            self.checkpointing or other.checkpointing,
            min(self.evaluation_batch, other.evaluation_batch),
        )


class Fitting:
    """The fit of one candidate on one device, kept in a file where there is one.

    Several processes and threads may write it: the file is replaced whole, and what another has
    found out meanwhile is kept.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.fit = _read(path)

    def shrink(self, batch: int, can_checkpoint: bool) -> bool:
        """Do less at a time from now on; False when there is no less."""
        smaller = self.fit.smaller(batch, can_checkpoint)
        if smaller is None:
            return False
        self._remember(smaller)
        return True

    def shrink_evaluation(self, batch: int) -> bool:
        """Likewise for the examples of an evaluation."""
        if batch == 1:
            return False
        self._remember(replace(self.fit, evaluation_batch=(batch + 1) // 2))
        return True

    def adopt(self, fit: Mapping[str, Any]) -> None:
        """Go on as an interrupted cell was going."""
        self.fit = Fit(**fit)

    def _remember(self, fit: Fit) -> None:
        self.fit = fit
        if self.path is None:
            return
        text = json.dumps(asdict(fit.and_of(_read(self.path))))
        whole = self.path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        with suppress(OSError):  # the next cell then finds out for itself
            self.path.parent.mkdir(parents=True, exist_ok=True)
            whole.write_text(text)
            whole.replace(self.path)


def _read(path: Path | None) -> Fit:
    try:
        return Fit(**json.loads(path.read_text())) if path else Fit()
    except (OSError, ValueError, TypeError):
        return Fit()


def device_name(device: torch.device, limit_gib: float | None) -> str:
    """What a fit is remembered for: kind and memory of the device, as a file name."""
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        name, total = facts.name, facts.total_memory
    else:
        name, total = f"{device.type}-{platform.machine()}", psutil.virtual_memory().total
    held = f"{limit_gib:g}" if limit_gib else f"{total / GIB:.0f}"
    return re.sub(r"[^\w.]+", "-", f"{name}-{held}GiB").lower()


def release(device: torch.device) -> None:
    """Give back what a failed attempt held."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


@contextmanager
def limited(limit_gib: float | None, device: torch.device) -> Iterator[None]:
    """Let this process allocate no more than ``limit_gib`` on ``device``: on a CPU beside what it
    has already, where the system can say so (Linux)."""
    if limit_gib is None:
        yield
    elif device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit_gib * GIB / total), device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
    elif device.type == "cpu" and sys.platform == "linux":
        before = resource.getrlimit(resource.RLIMIT_DATA)
        held = _data_bytes()
        resource.setrlimit(resource.RLIMIT_DATA, (held + round(limit_gib * GIB), before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, before)
    else:
        log.warning("engine.memory_gib is not kept on %s here", device.type)
        yield


def _data_bytes() -> int:
    """Private writable memory of this process, which is what RLIMIT_DATA counts."""
    line = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmData")
    )
    return int(line.split()[1]) * 1024


def too_large(model: Any, examples: Sequence[Example], device: torch.device) -> ModelError:
    """The sentence for a cell that fits in no way, with what one example at a time takes."""
    parts = asdict(memory(model, [max(examples, key=len)], checkpointing=True))
    if device.type != "cpu":
        del parts["best"]  # is kept on the host
    listed = ", ".join(f"{name} {_amount(size)}" for name, size in parts.items())
    return ModelError(
        f"out of memory on {device.type} with one example at a time: training needs about "
        f"{_amount(sum(parts.values()))} beside the process ({listed}); use a device with more, "
        "fewer engine.slots, a larger engine.memory_gib, engine.processes, or finetune.method: lora"
    )


@contextmanager
def explained(model: Any, examples: Sequence[Example], device: torch.device) -> Iterator[None]:
    """Where nothing can be done in smaller parts: say so."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise too_large(model, examples, device) from None


def _amount(size: float) -> str:
    return f"{size / GIB:.2g} GiB" if size >= GIB / 10 else f"{size / 2**20:.2g} MiB"
