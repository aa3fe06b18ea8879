"""The rows of the page's tables, computed here so that the template only lays them out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lensllm.report import style
from lensllm.report.data import ReportData


@dataclass(frozen=True)
class Bar:
    """An interval on a scale from 0 to 100, and the marks on it; None where there is nothing."""

    low: float | None
    high: float | None
    predicted: float | None
    measured: float | None


@dataclass(frozen=True)
class Ranked:
    """One line of the ranking."""

    rank: int
    candidate: str
    colour: int | None
    parameters: float
    predicted: float
    low: float
    high: float
    p_best: float
    expected_regret: float
    measured: float
    measured_rank: int
    chosen: bool
    bar: Bar

    @property
    def relative_error(self) -> float:
        """Predicted minus measured loss, over measured."""
        return (self.predicted - self.measured) / self.measured


def scale(data: ReportData) -> tuple[float, float]:
    """The losses at both ends of the ranking's bars; one very wide interval does not set them."""
    rows = data.ranking
    middle = pd.concat([rows["predicted"], rows["measured"]]).dropna()
    if middle.empty:
        return 0.0, 1.0
    low, high = float(middle.min()), float(middle.max())
    room = max(high - low, 0.05 * abs(high))
    ends = max(rows["low"].min(), low - room), min(rows["high"].max(), high + room)
    return float(np.nanmin([low, ends[0]])), float(np.nanmax([high, ends[1]]))


def ranking(data: ReportData) -> list[Ranked]:
    """The default predictor's ranking, best first."""
    low, high = scale(data)
    looks = style.looks(data)
    sizes = parameters(data)
    chosen = data.choice

    def place(value: float) -> float | None:
        if not math.isfinite(value):
            return None
        return round(100 * float(np.clip((value - low) / max(high - low, 1e-12), 0, 1)), 2)

    return [
        Ranked(
            rank=int(row["rank"]),
            candidate=row["candidate"],
            colour=looks[row["candidate"]].index,
            parameters=sizes.get(row["candidate"], math.nan),
            predicted=row["predicted"],
            low=row["low"],
            high=row["high"],
            p_best=row["p_best"],
            expected_regret=row["expected_regret"],
            measured=row["measured"],
            measured_rank=int(row["measured_rank"]),
            chosen=row["candidate"] == chosen,
            bar=Bar(*(place(row[key]) for key in ("low", "high", "predicted", "measured"))),
        )
        for _, row in data.ranking.iterrows()
    ]


def parameters(data: ReportData) -> dict[str, float]:
    """Weights of each candidate that has a cell; NaN where unknown."""
    counts = data.cells.groupby("candidate")["parameters"].max()
    numbers = counts.to_numpy(dtype=float, na_value=math.nan)
    return dict(zip(counts.index.astype(str), map(float, numbers), strict=True))


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as mappings from column to value."""
    return [{str(column): cell for column, cell in row.items()} for row in frame.to_dict("records")]


@dataclass(frozen=True)
class Law:
    """One fitted law, and where its transition lies."""

    candidate: str
    law: str
    fit: Mapping[str, float]  # the columns of law/fits
    phase: str


def laws(data: ReportData) -> tuple[list[Law], list[Law]]:
    """The fits of one law, and those of all others, in the order of the ranking.

    The first is the law that is drawn; without one the rectified, if it was fitted.
    """
    place = {name: index for index, name in enumerate(data.candidates)}
    order, fitted = data.fits["candidate"].map(place), list(data.fits["law"])
    lines = [
        Law(row["candidate"], row["law"], row, _phase(row["transition_size"], data.budget))
        for row in records(data.fits.assign(place=order).sort_values(["law", "place"]))
    ]
    first = next((name for name in (data.drawn_law, "rectified") if name in set(fitted)), None)
    first = first or next(iter(fitted), None)
    return (
        [line for line in lines if line.law == first],
        [line for line in lines if line.law != first],
    )


def _phase(transition: float, budget: int) -> str:
    if not math.isfinite(transition):
        return "unknown"
    return "power" if transition <= budget else "pre-power"


def incomplete(data: ReportData) -> list[str]:
    """Candidates with fewer sizes than the sweep has up to the budget, in words.

    Those that a policy dropped have no more by intent.
    """
    paid = data.cells[data.cells["size"] <= data.budget]
    wanted = paid["size"].nunique()
    found = paid.groupby("candidate")["size"].nunique()
    return [
        f"{name} ({found.get(name, 0)} of {wanted} sizes)"
        for name in data.candidates
        if found.get(name, 0) < wanted and name not in data.dropped
    ]


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


def cost(data: ReportData) -> list[Spent]:
    """One line per candidate; seconds and memory are those of the cells up to the budget.

    No line at all where nothing is known of the cost, as for losses measured elsewhere.
    """
    if not np.isfinite(data.cost[["spent_flops", "full_flops"]]).all(axis=1).any():
        return []
    paid = data.machine[data.machine["size"] <= data.budget].groupby("candidate")
    time, memory = paid["seconds"].sum(), paid["peak_memory_bytes"].max()
    flops = {row["candidate"]: row for row in records(data.cost)}
    return [
        Spent(
            name,
            flops[name]["spent_flops"],
            flops[name]["full_flops"],
            float(time.get(name, math.nan)),
            float(memory.get(name, math.nan)),
        )
        for name in data.candidates
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
