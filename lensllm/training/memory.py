"""Batch sizes that fit into memory, found by running out of it and kept for the next cell.

A batch that does not fit is halved repeatedly; at one example at a time, gradient checkpointing is
turned on. Loss and gradients stay those of the whole batch, so no key depends on this.
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch

from lensllm.core.errors import ModelError
from lensllm.models.batch import Example
from lensllm.models.memory import amount, memory

log = logging.getLogger("lensllm.training")
GIB = 2**30
# Messages of allocators that raise a bare RuntimeError: torch's on a CPU, Apple's, C++, oneDNN.
_COMPLAINTS = re.compile(
    "can't allocate memory|out of memory|bad_alloc|could not create a memory object"
)


def is_out_of_memory(error: BaseException) -> bool:
    """True if ``error`` says that an allocator refused."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(_COMPLAINTS.search(str(error)))


@dataclass(frozen=True)
class BatchPlan:
    """Numbers of examples that are in memory at a time."""

    micro_batch: int = 0  # examples of an optimiser step at a time; 0: all of them
    checkpointing: bool = False  # gradient checkpointing: activations are computed twice
    evaluation_batch: int = 64

    def smaller(self, batch: int, can_checkpoint: bool) -> BatchPlan | None:
        """The next smaller plan for a step of ``batch`` examples; None if there is none."""
        now = min(self.micro_batch or batch, batch)
        if now > 1:
            return replace(self, micro_batch=(now + 1) // 2)
        if can_checkpoint and not self.checkpointing:
            return replace(self, micro_batch=1, checkpointing=True)
        return None

    def smallest(self, other: BatchPlan) -> BatchPlan:
        """The plan that takes the smaller size of both in everything."""
        sizes = [f.micro_batch for f in (self, other) if f.micro_batch]
        return BatchPlan(
            min(sizes, default=0),
            self.checkpointing or other.checkpointing,
            min(self.evaluation_batch, other.evaluation_batch),
        )


class BatchSizeTuner:
    """Finds the batch plan of one candidate on one device; several may share the file ``path``."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.plan = _read(path)

    def shrink(self, batch: int, can_checkpoint: bool) -> bool:
        """Use a smaller plan from now on; False if there is none."""
        smaller = self.plan.smaller(batch, can_checkpoint)
        if smaller:
            self._remember(smaller)
        return smaller is not None

    def shrink_evaluation(self, batch: int) -> bool:
        """Use smaller batches for evaluation from now on; False if ``batch`` is 1."""
        if batch > 1:
            self._remember(replace(self.plan, evaluation_batch=(batch + 1) // 2))
        return batch > 1

    def _remember(self, plan: BatchPlan) -> None:
        self.plan = plan
        if self.path is None:
            return
        plan = plan.smallest(_read(self.path))  # another process may have found a smaller one
        whole = self.path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        with suppress(OSError):  # the next cell then finds its plan by itself
            self.path.parent.mkdir(parents=True, exist_ok=True)
            whole.write_text(json.dumps(asdict(plan)))
            whole.replace(self.path)


def _read(path: Path | None) -> BatchPlan:
    try:
        return BatchPlan(**json.loads(path.read_text())) if path else BatchPlan()
    except (OSError, ValueError, TypeError):
        return BatchPlan()


def device_name(device: torch.device, limit_gib: float | None) -> str:
    """Kind and memory of the device, as the part of a file name that a plan is kept under."""
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        name, total = facts.name, facts.total_memory
    else:
        name, total = f"{device.type}-{platform.machine()}", psutil.virtual_memory().total
    held = f"{limit_gib:g}" if limit_gib else f"{total / GIB:.0f}"
    return re.sub(r"[^\w.]+", "-", f"{name}-{held}GiB").lower()


def release(device: torch.device) -> None:
    """Free the memory that a failed attempt held."""
    gc.collect()
    if device.type != "cpu":
        torch.get_device_module(device).empty_cache()


@contextmanager
def limited(limit_gib: float | None, device: torch.device) -> Iterator[None]:
    """Context in which this process may allocate ``limit_gib`` on ``device`` (None: all).

    On a CPU the limit is on top of the memory already held, and is set on Linux only.
    """
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
        # RLIMIT_DATA limits what Linux counts as VmData: private writable memory.
        _, _, counted = Path("/proc/self/status").read_text().partition("VmData:")
        most = 1024 * int(counted.split()[0]) + round(limit_gib * GIB)
        resource.setrlimit(resource.RLIMIT_DATA, (most, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, before)
    else:
        log.warning("engine.memory_gib is not kept on %s here", device.type)
        yield


def too_large(model: Any, examples: Sequence[Example], device: torch.device) -> ModelError:
    """Error for a cell that fits in no way, with the memory that one example at a time takes."""
    parts = asdict(memory(model, [max(examples, key=len)], checkpointing=True))
    if device.type != "cpu":
        del parts["best"]  # the best weights are kept on the host
    listed = ", ".join(f"{name} {amount(size)}" for name, size in parts.items())
    return ModelError(
        f"out of memory on {device.type} with one example at a time: training needs about "
        f"{amount(sum(parts.values()))} beside the process ({listed}); use a device with more, "
        "fewer engine.slots, a larger engine.memory_gib, engine.processes, or finetune.method: lora"
    )


@contextmanager
def explain_out_of_memory(
    model: Any, examples: Sequence[Example], device: torch.device
) -> Iterator[None]:
    """Turn an allocator's refusal into ``too_large``, where no smaller batch would help."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise too_large(model, examples, device) from None
