"""How many cells at a time, with how many threads each, on which GPUs."""

from __future__ import annotations

import os
from pathlib import Path

from lensllm.config import Engine
from lensllm.processes import cores


def slots_of(engine: Engine) -> tuple[int, int, tuple[str, ...]]:
    """(slots, threads per worker, GPU names); by default a slot per GPU, else one per core.

    Two workers of one thread beat one of two on small models, and threads beyond the cores
    collapse.
    """
    gpus = () if engine.device in ("cpu", "mps") else _gpus()
    slots = (len(gpus) or cores()) if engine.slots == "auto" else engine.slots
    return slots, max(1, cores() // slots), gpus


def _gpus() -> tuple[str, ...]:
    """CUDA device names, found without importing torch into the command's own process."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name for name in visible.split(",") if name not in ("", "-1"))
    devices = [p.name.removeprefix("nvidia") for p in Path("/dev").glob("nvidia[0-9]*")]
    return tuple(sorted(devices, key=int))
