"""The throughput of a candidate on this machine, and the costs that it predicts."""

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

# The median of three epochs counts, since a pause of the machine falls on one of them; six batches
# group lengths almost as a cell does.
_WARM_UP_STEPS = 2
_EPOCHS, _STEPS = 3, 6
# Every third of the batches is evaluated: they have as little padding as hundreds of examples.
_EVALUATIONS, _BATCHES, _EVALUATION_BATCH = 2, 9, 64
_CAP_SECONDS = 20.0  # approximate limit of the timed steps: fewer steps if they are slow
_CPU, _GPUS = Path("/proc/cpuinfo"), Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True)
class StepTimes:
    """FLOP rates and step time of a timing run."""

    train_flops_per_second: float
    evaluation_flops_per_second: float
    steps: int  # timed training steps
    step_seconds: float  # median


@dataclass(frozen=True)
class Throughput:
    """Cost of a candidate's cells on one machine, by the examples trained on and evaluated."""

    train_flops_per_example: float
    evaluation_flops_per_example: float
    train_flops_per_second: float
    evaluation_flops_per_second: float
    load_seconds: float
    peak_memory_bytes: float

    @staticmethod
    def from_row(row: Mapping[str, Any]) -> Throughput:
        """The throughput in a row of the table probe/throughput."""
        return Throughput(**{name: float(row[name]) for name in Throughput.__dataclass_fields__})

    def flops(self, trained: float, evaluated: float) -> float:
        """FLOPs of a cell; ``trained`` counts an example once per epoch."""
        train = trained * self.train_flops_per_example
        return train + evaluated * self.evaluation_flops_per_example

    def seconds(self, trained: float, evaluated: float) -> float:
        """Seconds of a cell; arguments as of ``flops``."""
        train = trained * self.train_flops_per_example / self.train_flops_per_second
        read = evaluated * self.evaluation_flops_per_example / self.evaluation_flops_per_second
        return self.load_seconds + train + read


def measure_throughput(
    model: Any,
    examples: Sequence[Example],
    settings: FineTune,
    *,
    device: torch.device,
    dtype: torch.dtype,
    train_flops: Callable[[Sequence[Example]], float],
    forward_flops: Callable[[Sequence[Example]], float],
) -> StepTimes:
    """Time the cells' training loop on ``examples``, and evaluation; changes the weights."""
    from lensllm.training.evaluate import evaluate
    from lensllm.training.loop import fine_tune

    def train(steps: int, epochs: int) -> tuple[list[float], Sequence[Example]]:
        """Seconds of each of ``epochs`` epochs of ``steps`` steps, and the examples of one."""
        subset = examples[: steps * settings.batch_size]
        marks = [time.perf_counter()]
        fine_tune(
            model,
            subset,
            examples[:1],
            settings.model_copy(update={"epochs": epochs}),
            seed=0,
            device=device,
            dtype=dtype,
            on_epoch=lambda _: marks.append(time.perf_counter()),
        )
        return [end - begin for begin, end in pairwise(marks)], subset

    warm, subset = train(_WARM_UP_STEPS, 1)
    affordable = _CAP_SECONDS / (warm[0] / math.ceil(len(subset) / settings.batch_size))
    epochs = max(1, min(_EPOCHS, int(affordable)))
    seconds, subset = train(max(1, min(_STEPS, int(affordable / epochs))), epochs)
    steps = math.ceil(len(subset) / settings.batch_size)
    # Evaluating an example takes about a third of the time of training on it.
    affordable = _CAP_SECONDS / (median(seconds) / len(subset) / 3) / 4 / _EVALUATIONS
    evaluated = _evaluated(examples, max(1, int(affordable)))
    waits = []
    for _ in range(_EVALUATIONS):
        begin = time.perf_counter()
        evaluate(model, evaluated, device=device, dtype=dtype)
        waits.append(time.perf_counter() - begin)
    return StepTimes(
        train_flops_per_second=train_flops(subset) / median(seconds),
        evaluation_flops_per_second=forward_flops(evaluated) / median(waits),
        steps=epochs * steps,
        step_seconds=median(seconds) / steps,
    )


def _evaluated(examples: Sequence[Example], most: int) -> list[Example]:
    """At most ``most`` examples, in batches that represent the lengths of the first hundreds."""
    pool = sorted(examples[: _BATCHES * _EVALUATION_BATCH], key=len)
    starts = range(_EVALUATION_BATCH, len(pool), 3 * _EVALUATION_BATCH)
    chosen = [e for start in starts for e in pool[start : start + _EVALUATION_BATCH]] or pool
    return chosen[:: math.ceil(len(chosen) / most)]


def compare_with_cells(throughputs: Mapping[str, Throughput], cells: pd.DataFrame) -> pd.DataFrame:
    """Table report/forecast: predicted and actual cost of each candidate's ``cells``.

    Candidates without a throughput are left out. The branches of a repeat share their trunk.
    """
    rows = []
    for name, mine in cells.groupby("candidate", sort=False):
        if (throughput := throughputs.get(str(name))) is None:
            continue
        trunks = mine.groupby("repeat")[["trunk_examples", "trunk_flops"]].max().sum()
        own = mine["epochs"] * mine["size"] - mine["trunk_examples"]
        trained = float(own.sum() + trunks["trunk_examples"])
        evaluated = float(mine["evaluated_examples"].sum())
        loads = (len(mine) - 1) * throughput.load_seconds
        rows.append(
            {
                "candidate": name,
                "cells": len(mine),
                "predicted_seconds": throughput.seconds(trained, evaluated) + loads,
                "seconds": mine["seconds"].sum(),
                "predicted_flops": throughput.flops(trained, evaluated),
                "flops": mine[["train_flops", "evaluation_flops"]].sum(axis=None)
                + trunks["trunk_flops"],
                "predicted_peak_memory_bytes": throughput.peak_memory_bytes,
                "peak_memory_bytes": mine["peak_memory_bytes"].max(),
            }
        )
    return pd.DataFrame(rows) if rows else empty("report/forecast")


def machine() -> dict[str, Any]:
    """Hardware that a throughput depends on, found without torch: processor, cores, GPUs."""
    names = _field(_CPU, "model name") if _CPU.exists() else []
    cpu = names[0] if names else platform.processor() or platform.machine()
    gpus = [name for path in sorted(_GPUS.glob("*/information")) for name in _field(path, "Model")]
    return {"cpu": cpu, "cores": cores(), "gpus": gpus}


def _field(path: Path, key: str) -> list[str]:
    """Values of the lines ``key…: value`` of a file of /proc."""
    lines = path.read_text().splitlines()
    return [line.partition(":")[2].strip() for line in lines if line.startswith(key)]
