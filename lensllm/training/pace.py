"""How fast a candidate runs on this machine, measured on a few steps, and what that predicts."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import pandas as pd

from lensllm.config.sections import FineTune
from lensllm.core.processes import cores
from lensllm.store.schemas import empty

if TYPE_CHECKING:
    import torch

    from lensllm.models.batch import Example

# Two steps to warm up, then three times six of which the median counts: a pause of the machine
# falls on one of the three, and in six batches like lengths come together almost as in a cell.
_WARM_UP_STEPS = 2
_EPOCHS, _STEPS = 3, 6
# Every third of these batches is evaluated: padded as little as in a set of hundreds of examples.
_EVALUATIONS, _BATCHES, _EVALUATION_BATCH = 2, 9, 64
_CAP_SECONDS = 20.0  # about what the steps may take: of slow ones there are fewer
_CPU, _GPUS = Path("/proc/cpuinfo"), Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True)
class Speed:
    """What a probe measures."""

    train_flops_per_second: float
    evaluation_flops_per_second: float
    steps: int  # behind the first
    step_seconds: float  # median


@dataclass(frozen=True)
class Pace:
    """A candidate on one machine: what a cell takes, by the examples it is trained on and reads."""

    train_flops_per_example: float
    evaluation_flops_per_example: float
    train_flops_per_second: float
    evaluation_flops_per_second: float
    load_seconds: float
    peak_memory_bytes: float

    @staticmethod
    def of(row: Mapping[str, Any]) -> Pace:
        """Of a row of probe/pace."""
        return Pace(**{name: float(row[name]) for name in Pace.__dataclass_fields__})

    def flops(self, trained: float, evaluated: float) -> float:
        """Of a cell, ``trained`` counting an example once an epoch."""
        return (
            trained * self.train_flops_per_example + evaluated * self.evaluation_flops_per_example
        )

    def seconds(self, trained: float, evaluated: float) -> float:
        """Of a cell."""
        train = trained * self.train_flops_per_example / self.train_flops_per_second
        read = evaluated * self.evaluation_flops_per_example / self.evaluation_flops_per_second
        return self.load_seconds + train + read


def measure(
    model: Any,
    examples: Sequence[Example],
    recipe: FineTune,
    *,
    device: torch.device,
    dtype: torch.dtype,
    train_flops: Callable[[Sequence[Example]], float],
    forward_flops: Callable[[Sequence[Example]], float],
) -> Speed:
    """Train ``model`` by its recipe on the first of the ``examples``, and evaluate it on some.

    It is the loop of the cells that is timed, an epoch at a time, with all it does beside the
    products; the model is worn afterwards.
    """
    from lensllm.training import evaluate, fine_tune

    def train(steps: int, epochs: int) -> tuple[list[float], Sequence[Example]]:
        """Seconds of each epoch of so many steps, and the examples of one."""
        subset = examples[: steps * recipe.batch_size]
        marks = [time.perf_counter()]
        fine_tune(
            model,
            subset,
            examples[:1],
            recipe.model_copy(update={"epochs": epochs}),
            seed=0,
            device=device,
            dtype=dtype,
            on_epoch=lambda _: marks.append(time.perf_counter()),
        )
        return [end - begin for begin, end in pairwise(marks)], subset

    warm, subset = train(_WARM_UP_STEPS, 1)
    affordable = _CAP_SECONDS / (warm[0] / math.ceil(len(subset) / recipe.batch_size))
    epochs = max(1, min(_EPOCHS, int(affordable)))
    seconds, subset = train(max(1, min(_STEPS, int(affordable / epochs))), epochs)
    steps = math.ceil(len(subset) / recipe.batch_size)
    # an example takes about a third of what a training step takes for it
    affordable = _CAP_SECONDS / (median(seconds) / len(subset) / 3) / 4 / _EVALUATIONS
    read = _evaluated(examples, max(1, int(affordable)))
    waits = []
    for _ in range(_EVALUATIONS):
        begin = time.perf_counter()
        evaluate(model, read, device=device, dtype=dtype)
        waits.append(time.perf_counter() - begin)
    return Speed(
        train_flops_per_second=train_flops(subset) / median(seconds),
        evaluation_flops_per_second=forward_flops(read) / median(waits),
        steps=epochs * steps,
        step_seconds=median(seconds) / steps,
    )


def _evaluated(examples: Sequence[Example], most: int) -> list[Example]:
    """Of the first hundreds by length, batches that stand for all of them."""
    pool = sorted(examples[: _BATCHES * _EVALUATION_BATCH], key=len)
    starts = range(_EVALUATION_BATCH, len(pool), 3 * _EVALUATION_BATCH)
    chosen = [e for start in starts for e in pool[start : start + _EVALUATION_BATCH]] or pool
    return chosen[:: math.ceil(len(chosen) / most)]


def compare(
    paces: Mapping[str, Pace], cells: pd.DataFrame, seen: Callable[[int, int], tuple[float, float]]
) -> pd.DataFrame:
    """report/forecast: what the paces predict of the ``cells``, rows of finetune/cell, and what
    these took; ``seen`` says, of epochs and size, how many examples a cell is trained on and how
    many it reads."""
    rows = []
    for name, mine in cells.groupby("candidate", sort=False):
        if (pace := paces.get(str(name))) is None:
            continue
        counts = [seen(*cell) for cell in zip(mine["epochs"], mine["size"], strict=True)]
        rows.append(
            {
                "candidate": name,
                "cells": len(mine),
                "predicted_seconds": sum(pace.seconds(*count) for count in counts),
                "seconds": mine["seconds"].sum(),
                "predicted_flops": sum(pace.flops(*count) for count in counts),
                "flops": (mine["train_flops"] + mine["evaluation_flops"]).sum(),
                "predicted_peak_memory_bytes": pace.peak_memory_bytes,
                "peak_memory_bytes": mine["peak_memory_bytes"].max(),
            }
        )
    return pd.DataFrame(rows) if rows else empty("report/forecast")


def machine() -> dict[str, Any]:
    """What a pace depends on beside the software: processor, cores that may be used, GPUs."""
    return {"cpu": _cpu(), "cores": cores(), "gpus": _gpus()}


def _cpu() -> str:
    if _CPU.exists():
        for line in _CPU.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    """Found without torch, which the command's own process does without."""
    found = []
    for path in sorted(_GPUS.glob("*/information")):
        lines = path.read_text().splitlines()
        found += [r.partition(":")[2].strip() for r in lines if r.startswith("Model")]
    return found
