"""The rows of the tables about cost: spent and predicted, and the settings of training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lensllm.report.answer_tables import records
from lensllm.report.result import Result


@dataclass(frozen=True)
class Spent:
    """What one candidate cost, and what fine-tuning it on everything would have."""

    candidate: str
    spent_flops: float
    full_flops: float
    seconds: float
    peak_memory_bytes: float

    @property
    def share(self) -> float:
        """Spent over full."""
        return self.spent_flops / self.full_flops if self.full_flops > 0 else math.nan


def cost(result: Result) -> list[Spent]:
    """One line per candidate; seconds and memory are those of the cells up to the budget.

    No line at all where nothing is known of the cost, as for losses measured elsewhere.
    """
    if not np.isfinite(result.cost[["spent_flops", "full_flops"]]).all(axis=1).any():
        return []
    paid = result.cell_costs[result.cell_costs["size"] <= result.budget].groupby("candidate")
    time, memory = paid["seconds"].sum(), paid["peak_memory_bytes"].max()
    flops = {row["candidate"]: row for row in records(result.cost)}
    return [
        Spent(
            name,
            flops[name]["spent_flops"],
            flops[name]["full_flops"],
            float(time.get(name, math.nan)),
            float(memory.get(name, math.nan)),
        )
        for name in result.candidates
        if name in flops
    ]


def total(lines: list[Spent]) -> Spent:
    """The sum over candidates, and the largest peak."""
    seconds = [line.seconds for line in lines if math.isfinite(line.seconds)]
    memory = [line.peak_memory_bytes for line in lines if math.isfinite(line.peak_memory_bytes)]
    return Spent(
        "all candidates",
        sum(line.spent_flops for line in lines),
        sum(line.full_flops for line in lines),
        sum(seconds) if seconds else math.nan,
        max(memory, default=math.nan),
    )


# --- the cost model against the cells ---------------------------------------------------------
@dataclass(frozen=True)
class ForecastRow:
    """What was predicted of one candidate's cells, and what they took."""

    candidate: str
    cells: int
    predicted_seconds: float
    seconds: float
    predicted_flops: float
    flops: float
    predicted_memory: float  # bytes, the peak
    memory: float

    @property
    def seconds_ratio(self) -> float:
        """Measured over predicted."""
        return self.seconds / self.predicted_seconds


def forecasts(result: Result) -> list[ForecastRow]:
    """A line per candidate that was probed, in the order of the ranking, and one of all; none where
    no candidate was."""
    rows = {row["candidate"]: row for row in records(result.forecast)}
    lines = [
        ForecastRow(
            candidate=name,
            cells=int(rows[name]["cells"]),
            predicted_seconds=rows[name]["predicted_seconds"],
            seconds=rows[name]["seconds"],
            predicted_flops=rows[name]["predicted_flops"],
            flops=rows[name]["flops"],
            predicted_memory=rows[name]["predicted_peak_memory_bytes"],
            memory=rows[name]["peak_memory_bytes"],
        )
        for name in result.candidates
        if name in rows
    ]
    return [*lines, _forecast_total(lines)] if lines else []


def _forecast_total(lines: list[ForecastRow]) -> ForecastRow:
    """Sums, and the largest peaks."""
    return ForecastRow(
        candidate="all candidates",
        cells=sum(line.cells for line in lines),
        predicted_seconds=sum(line.predicted_seconds for line in lines),
        seconds=sum(line.seconds for line in lines),
        predicted_flops=sum(line.predicted_flops for line in lines),
        flops=sum(line.flops for line in lines),
        predicted_memory=max(line.predicted_memory for line in lines),
        memory=max(line.memory for line in lines),
    )


# --- settings of training ---------------------------------------------------------------------
# What makes two candidates' training equally long; other differences are a matter of what suits.
_EFFORT = ("epochs", "batch_size")


@dataclass(frozen=True)
class LearningRate:
    """One candidate's learning rate."""

    candidate: str
    rate: float
    losses: tuple[tuple[float, float], ...]  # (rate tried, validation loss), ascending
    edge: str  # "largest" or "smallest" of those tried, or nothing


def learning_rates(result: Result) -> list[LearningRate]:
    """Of the candidates for which one was chosen, in the order of the ranking."""
    found = []
    for name in result.candidates:
        if name not in result.learning_rates:
            continue
        table = result.learning_rates[name].sort_values("learning_rate")
        tried = table["learning_rate"].tolist()
        rate = float(table.loc[table["chosen"], "learning_rate"].iloc[0])
        losses = tuple(zip(tried, table["validation_nats_per_token"].tolist(), strict=True))
        edge = {tried[0]: "smallest", tried[-1]: "largest"}.get(rate, "")
        found.append(LearningRate(name, rate, losses, edge))
    return found


def unequal(config: Mapping[str, Any]) -> list[str]:
    """A sentence for each candidate whose epochs or effective batch are not the others'."""
    common = config.get("finetune", {})
    found = []
    for candidate in config.get("candidates", ()):
        own = candidate.get("finetune", {})
        differ = [key for key in _EFFORT if key in own and own[key] != common.get(key)]
        if differ:
            said = " and ".join(f"{key} {own[key]} instead of {common.get(key)}" for key in differ)
            found.append(f"{candidate['name']} is trained with {said}.")
    return found
