"""The rows of the sweep's table: who was dropped after which round, and why."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lensllm.report.data import ReportData


@dataclass(frozen=True)
class Round:
    """What was decided from all cells up to one size."""

    budget: int  # largest D of the round
    racing: int  # candidates that were trained on it
    dropped: int


@dataclass(frozen=True)
class Racer:
    """One candidate through the rounds."""

    candidate: str
    chances: tuple[float, ...]  # P(best) after each round; NaN when it was no longer in the race
    dropped: int | None  # the round's D; None: it stayed to the end
    reason: str


def rounds(data: ReportData) -> list[Round]:
    """One line per round, in their order."""
    return [
        Round(int(str(budget)), len(rows), int((rows["dropped"] != "").sum()))
        for budget, rows in data.decisions.groupby("budget")
    ]


def racers(data: ReportData) -> list[Racer]:
    """Every candidate: those that stayed first, then whoever was dropped last, by chance."""
    chances = data.decisions.pivot(index="candidate", columns="budget", values="p_best")
    out = data.decisions[data.decisions["dropped"] != ""]
    reasons = dict(zip(out["candidate"], out["dropped"], strict=True))
    lines = [
        Racer(str(name), tuple(map(float, row)), data.dropped.get(str(name)), reasons.get(name, ""))
        for name, row in zip(chances.index, chances.to_numpy(), strict=True)
    ]

    def order(line: Racer) -> tuple[float, list[float], str]:
        last_first = [-chance for chance in reversed(line.chances) if math.isfinite(chance)]
        return -(line.dropped or math.inf), last_first, line.candidate

    return sorted(lines, key=order)


def stop(data: ReportData) -> str:
    """Why nobody got a larger subset; empty when the sweep ended with its largest."""
    return "" if data.decisions.empty else str(data.decisions["stop"].iloc[-1])


def saved(data: ReportData) -> float:
    """Share of the training examples of a full comparison that a policy did without, or NaN."""
    if data.examples.empty:
        return math.nan
    row = data.examples.iloc[0]
    return 1 - float(row["spent_examples"]) / float(row["full_examples"])
