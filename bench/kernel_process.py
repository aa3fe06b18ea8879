"""A process of its own for every way: its peak memory is then its own, its time still in rounds."""

import ctypes
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from transformers.utils import logging

from bench.kernel_models import read_probes
from bench.kernel_ways import WAYS, Found
from lensllm.core.meter import Meter
from lensllm.models.load import choose_device, load_model

# Forked from a server that has imported torch and done nothing else: starts at once, and the GPU
# belongs to the children.
_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__])
_WARM_UP = 4  # probes: reads the weights' pages, builds what torch builds on its first call


class Process:
    """Runs one way again and again."""

    def __init__(self, way: str, folder: Path, count: int) -> None:
        self._here, there = _CONTEXT.Pipe()
        arguments = (there, way, folder, count)
        self._process = _CONTEXT.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        there.close()  # so that a process that fails ends the wait for it
        self._here.recv()

    def run(self) -> tuple[float, int, Found]:
        """Seconds and bytes beyond what the model takes, and what was found."""
        self._here.send(None)
        result: tuple[float, int, Found] = self._here.recv()
        return result

    def close(self) -> None:
        self._here.close()  # ends its loop
        self._process.join()


@contextmanager
def closing(processes: dict[str, Process]) -> Iterator[None]:
    try:
        yield
    finally:
        for process in processes.values():
            process.close()


def _serve(pipe: Connection, way: str, folder: Path, count: int) -> None:
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with threadpool_limits(1), suppress(EOFError):
        model = load_model(folder).to(choose_device("auto"))
        probes = read_probes(folder, count)
        WAYS[way](model, probes[:_WARM_UP])
        pipe.send(None)
        while True:
            pipe.recv()
            pipe.send(_measured(way, model, probes))


def _measured(way: str, model: Any, probes: list[Any]) -> tuple[float, int, Found]:
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc keeps freed memory, where a peak can hide
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    meter = Meter(model.device)
    before, begin = meter.peak_memory_bytes(), _clock(model.device)
    found = WAYS[way](model, probes)
    seconds = _clock(model.device) - begin
    return seconds / found.share, meter.peak_memory_bytes() - before, found


def _clock(device: torch.device) -> float:
    """On a CPU the time that this process computed: on shared cores it waits, too, and one thread
    does nothing else."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()
