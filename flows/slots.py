"""How many cells at a time, with how many threads each, on which GPUs."""

from __future__ import annotations

import os
from pathlib import Path

from lensllm.config import Engine
from lensllm.processes import cores


def slots_of(engine: Engine) -> tuple[int, int, tuple[str, ...]]:
    """(slots, threads per process, GPU names); by default a slot per GPU, else one per core. A cell
    of several processes has as many GPUs or cores.

    Two workers of one thread beat one of two on small models, and threads beyond the cores
    collapse.
    """
    each = engine.processes
    names = () if engine.device in ("cpu", "mps") else _gpus()
    # Fewer than a cell needs are one slot's, which says so when it starts.
    gpus = tuple(
        ",".join(names[i : i + each])
        for i in range(0, max(len(names) - each + 1, 1), each)
        if names
    )
    slots = (len(gpus) or max(1, cores() // each)) if engine.slots == "auto" else engine.slots
    return slots, max(1, cores() // (slots * each)), gpus


def _gpus() -> tuple[str, ...]:
    """CUDA device names, found without importing torch into the command's own process."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name for name in visible.split(",") if name not in ("", "-1"))
    devices = [p.name.removeprefix("nvidia") for p in Path("/dev").glob("nvidia[0-9]*")]
    return tuple(sorted(devices, key=int))
