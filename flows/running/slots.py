"""The engine's slots: how many cells run at once, with how many threads, on which GPUs."""

from __future__ import annotations

import os
from pathlib import Path

from lensllm.config.sections import Engine
from lensllm.core.processes import cores
from lensllm.store.artifacts import Store
from lensllm.workers import ray_cluster
from lensllm.workers.local import Workers
from lensllm.workers.ray_workers import RayWorkers

# Cells of small models that may share a GPU; more of them would wait for each other.
_MOST_PER_GPU = 8


def workers_for(engine: Engine, store: Store) -> Workers | RayWorkers:
    """The workers of ``engine``: processes of this machine, or the nodes of a cluster."""
    if engine.kind == "local":
        return Workers(*slots_of(engine))
    return RayWorkers(
        store.root.resolve(),
        engine.ray_address,
        slots_of(engine)[1],
        _gpus_per_cell(engine) if _uses_gpus(engine) else 0.0,
        processes=engine.processes,
    )


def slots_of(engine: Engine) -> tuple[int, int, tuple[str, ...]]:
    """Slots, threads per worker and GPU names of ``engine``.

    By default there is a slot per GPU, or per core without GPUs; in a cluster its GPUs and cores
    are counted. A cell of several processes takes as many GPUs or cores. On small models two
    workers of one thread are faster than one of two, and threads beyond the cores are very slow.
    """
    if engine.kind == "ray":
        return *_cluster_slots(engine), ()
    each = engine.processes
    names = () if engine.device in ("cpu", "mps") else _gpus()
    # Fewer GPUs than a cell needs make one slot, whose cell fails with a sentence.
    gpus = tuple(
        ",".join(names[i : i + each])
        for i in range(0, max(len(names) - each + 1, 1), each)
        if names
    )
    slots = (len(gpus) or max(1, cores() // each)) if engine.slots == "auto" else engine.slots
    return slots, max(1, cores() // (slots * each)), gpus


def _cluster_slots(engine: Engine) -> tuple[int, int]:
    """Slots and threads per worker of a cluster.

    Where cells share a GPU there may be more slots than Ray can fill; a cell waits in its slot.
    """
    ray_cluster.connect(engine.ray_address)
    gpus, each = _uses_gpus(engine), engine.processes
    nodes = [node for node in ray_cluster.nodes() if node.get("GPU") or not gpus]
    processors = [int(node.get("CPU", 0)) for node in nodes]
    at_once = [cores // each for cores in processors]
    if gpus:
        per_cell = _gpus_per_cell(engine) or 1 / _MOST_PER_GPU
        held = [int(node.get("GPU", 0) / per_cell) for node in nodes]
        at_once = [min(pair) for pair in zip(held, at_once, strict=True)]
    slots = max(1, sum(at_once)) if engine.slots == "auto" else engine.slots
    # As many threads as leave room for all slots, and as a node has.
    smallest = min((cores for cores in processors if cores), default=1)
    return slots, max(1, min(sum(processors) // (slots * each), smallest // each))


def _gpus_per_cell(engine: Engine) -> float | None:
    """GPUs that a cell in a cluster asks for; None if its memory decides."""
    if engine.processes > 1:
        return float(engine.processes)
    return None if engine.gpu_share == "auto" else engine.gpu_share


def _uses_gpus(engine: Engine) -> bool:
    """Return whether a cluster's cells ask for a GPU: a node has one, and the engine allows it."""
    ray_cluster.connect(engine.ray_address)
    wanted = engine.device not in ("cpu", "mps")
    return wanted and any(node.get("GPU") for node in ray_cluster.nodes())


def _gpus() -> tuple[str, ...]:
    """CUDA device names, without importing torch into the command's own process."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name for name in visible.split(",") if name not in ("", "-1"))
    devices = [p.name.removeprefix("nvidia") for p in Path("/dev").glob("nvidia[0-9]*")]
    return tuple(sorted(devices, key=int))
