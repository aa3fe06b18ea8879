"""The curvature section's numbers and sentences: layers, crossings, and what the bound is worth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lensllm.diagnostics.checks.curvature import vacuous
from lensllm.hessian.bound import REMAINDERS
from lensllm.report import text
from lensllm.report.data import ReportData
from lensllm.report.tables import records

LAYERS_SHOWN = 12  # the largest terms; the artefact's table has every layer


@dataclass(frozen=True)
class Layers:
    """The layers of one cell with the largest terms, and how many are not shown."""

    candidate: str
    size: int
    seed: int
    shown: pd.DataFrame  # curvature/layers
    hidden: int
    hidden_share: float  # of Σ √h over all layers


def layers(data: ReportData) -> list[Layers]:
    """The cell with most data of each candidate, in the order of the ranking."""
    tables = []
    for name in data.candidates if len(data.layers) else []:
        cells = data.layers[data.layers["candidate"] == name]
        if cells.empty:
            continue
        size = cells["size"].max()
        seed = cells.loc[cells["size"] == size, "seed"].min()
        frame = cells[(cells["size"] == size) & (cells["seed"] == seed)]
        frame = frame.sort_values("vhv_positive_max", ascending=False, kind="stable")
        terms = np.sqrt(np.maximum(frame["vhv_positive_max"].to_numpy(dtype=float), 0))
        rest = float(terms[LAYERS_SHOWN:].sum()) / (float(terms.sum()) or 1.0)
        shown = frame.head(LAYERS_SHOWN)
        tables.append(Layers(name, int(size), int(seed), shown, len(frame) - len(shown), rest))
    return tables


@dataclass(frozen=True)
class Reading:
    """n* under one reading of the remainder."""

    size: str
    interval: str  # 80 %; empty where there is none
    agrees: str  # yes: n* and D* lie on the same side of the budget


@dataclass(frozen=True)
class Transition:
    """One candidate's C₃ n^(−β₃), where it overtakes the remainder, and the law's D*."""

    candidate: str
    c3: float
    c3_error: float
    beta3: float
    beta3_error: float
    cells: int
    literal: Reading
    fitted: Reading
    start: str  # D*


def transitions(data: ReportData) -> list[Transition]:
    """A line per candidate with a crossing, in the order of the ranking."""
    found = {(row["candidate"], row["remainder"]): row for row in records(data.crossings)}
    return [
        _transition(*(found[name, remainder] for remainder in REMAINDERS))
        for name in data.candidates
        if (name, REMAINDERS[0]) in found
    ]


def _transition(literal: dict[str, Any], fitted: dict[str, Any]) -> Transition:
    return Transition(
        candidate=literal["candidate"],
        c3=literal["C3"],
        c3_error=literal["C3"] * literal["log_C3_stderr"],
        beta3=literal["beta3"],
        beta3_error=literal["beta3_stderr"],
        cells=literal["cells"],
        literal=_reading(literal),
        fitted=_reading(fitted),
        start=_place(literal["transition_size"]),
    )


def _reading(row: dict[str, Any]) -> Reading:
    low, high = row["low"], row["high"]
    known = not (math.isnan(low) or math.isnan(high))
    return Reading(
        size=_place(row["crossing_size"]),
        interval=f"{_place(low)} to {_place(high)}" if known else "",
        agrees={True: "yes", False: "no"}.get(row["agrees"], text.MISSING),
    )


def _place(size: float) -> str:
    """A number of training examples that may be none or without end."""
    if math.isnan(size):
        return text.MISSING
    if size < 1:
        return "< 1"
    return "∞" if math.isinf(size) else text.size(size)


def agreement(data: ReportData) -> list[str]:
    """How far the bound's transition is the law's, a sentence for each reading."""
    readings = {
        "literal": "With the remainder as n^(−3/4) nats",
        "fitted": "With its constant fitted to the gaps",
    }
    return [f"{readings[row['remainder']]}, {_agreement(row)}." for row in records(data.agreement)]


def _agreement(row: dict[str, Any]) -> str:
    count = row["candidates"]
    words = (
        f"the bound’s and the law’s transition lie on the same side of the budget for "
        f"{round(count * row['same_phase'])} of {count} candidates and "
        f"{row['doublings']:.1f} doublings apart in the median"
    )
    if math.isnan(row["within_interval"]):
        return words
    return f"{words}; D* is within the interval of n* for {text.percent(row['within_interval'])}"


def worth(data: ReportData) -> str:
    """Whether the bound says anything at the sizes examined, and what measuring it took."""
    count = len(data.bounds[["candidate", "size"]].drop_duplicates())
    known = "the largest loss seen, C, or the loss of guessing, ln V"
    empty = len(vacuous(data.bounds))
    if not empty:
        said = f"No bound is vacuous: each is lower than {known}."
    else:
        said = (
            f"{empty} of {count} bounds, one per candidate and size, are vacuous, no lower than "
            f"{known}; they are marked in the table of every cell."
        )
    return f"{said} {_share(data)}".rstrip()


def _share(data: ReportData) -> str:
    """The seconds of the curvature against those of the cells that were paid for."""
    paid = data.machine.loc[data.machine["size"] <= data.budget, "seconds"].sum()
    spent = data.bounds["seconds"].sum()
    if not (paid > 0 and spent > 0):
        return ""
    return f"Measuring it took {text.percent(spent / paid)} of the time of the sweep's cells."
