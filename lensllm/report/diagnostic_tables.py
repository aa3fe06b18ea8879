"""The rows of the tables about laws, kernels and curvature."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from lensllm.diagnostics.checks.curvature import vacuous
from lensllm.hessian.bound import REMAINDERS
from lensllm.predictors import names_reading
from lensllm.report import text
from lensllm.report.answer_tables import records
from lensllm.report.result import Array, Result
from lensllm.spectra.spectrum import Spectrum, by_probes


@dataclass(frozen=True)
class Law:
    """One fitted law, and where its transition lies."""

    candidate: str
    law: str
    fit: Mapping[str, float]  # the columns of law/fits
    phase: str


def laws(result: Result) -> tuple[list[Law], list[Law]]:
    """The fits of one law, and those of all others, in the order of the ranking.

    The first is the law that is drawn; without one the rectified, if it was fitted.
    """
    place = {name: index for index, name in enumerate(result.candidates)}
    order, fitted = result.fits["candidate"].map(place), list(result.fits["law"])
    lines = [
        Law(row["candidate"], row["law"], row, _phase(row["transition_size"], result.budget))
        for row in records(result.fits.assign(place=order).sort_values(["law", "place"]))
    ]
    first = next((name for name in (result.drawn_law, "rectified") if name in set(fitted)), None)
    first = first or next(iter(fitted), None)
    return (
        [line for line in lines if line.law == first],
        [line for line in lines if line.law != first],
    )


def _phase(transition: float, budget: int) -> str:
    if not math.isfinite(transition):
        return "unknown"
    return "power" if transition <= budget else "pre-power"


# --- kernels ----------------------------------------------------------------------------------
_FEWEST_PROBES = 16  # of the columns that show how F depends on their number


@dataclass(frozen=True)
class Share:
    """F(t)/F(0) from so many probes, and its standard error by their choice."""

    value: float
    error: float


@dataclass(frozen=True)
class KernelRow:
    """One kernel in a few numbers."""

    candidate: str
    probes: int
    residual: float  # F(0)
    effective_rank: float  # (Σλ)² / Σλ²
    time: float  # median flow time at which the candidate's sizes stopped
    left: Sequence[Share | None]  # at ``time``, one per count of ``probe_counts``


def kernels(result: Result) -> list[KernelRow]:
    """A line per candidate with a kernel, in the order of the ranking."""
    counts, stopped = probe_counts(result), _median_times(result)
    return [
        _kernel(
            name, result.spectra[name], probes(result, name), stopped.get(name, math.nan), counts
        )
        for name in result.candidates
        if name in result.spectra
    ]


def probe_counts(result: Result) -> list[int]:
    """16, 32, 64, … and the number of probes that the largest kernel has."""
    largest = max((len(matrix) for matrix in result.kernel_matrices.values()), default=0)
    counts = [2**k for k in range(largest.bit_length()) if _FEWEST_PROBES <= 2**k < largest]
    return [*counts, largest]


def probes(result: Result, candidate: str) -> tuple[Array, Array]:
    """K, (n, n), and ρ, (n,), of a candidate with a kernel."""
    matrix = result.kernel_matrices[candidate].sort_values("row")
    return np.stack(matrix["kernel"].to_list()), matrix["residual_norm"].to_numpy(dtype=float)


def _median_times(result: Result) -> dict[str, float]:
    """Of the sizes up to the budget, as the LensLLM law takes it in phase mode."""
    paid = result.cells[(result.cells["size"] > 0) & (result.cells["size"] <= result.budget)]
    times = paid.groupby(["candidate", "size"])["learning_rate_integral"].mean()
    medians = times.groupby("candidate").median()
    return dict(zip(medians.index.astype(str), map(float, medians), strict=True))


def _kernel(
    name: str,
    spectrum: Spectrum,
    sampled: tuple[Array, Array],
    time: float,
    counts: Sequence[int],
) -> KernelRow:
    values = spectrum.eigenvalues
    square = float((values**2).sum())
    return KernelRow(
        candidate=name,
        probes=len(values),
        residual=float(spectrum.residual(0.0)),
        effective_rank=float(values.sum()) ** 2 / square if square > 0 else math.nan,
        time=time,
        left=_left(sampled, time, counts),
    )


def _left(sampled: tuple[Array, Array], time: float, counts: Sequence[int]) -> list[Share | None]:
    """None where the candidate has fewer probes, or no time is known."""
    usable = [n for n in counts if 2 <= n <= len(sampled[1]) and math.isfinite(time)]
    values, errors = by_probes(*sampled, usable, time)
    found = {n: Share(float(v), float(e)) for n, v, e in zip(usable, values, errors, strict=True)}
    return [found.get(n) for n in counts]


# --- what a kernel contributes to the ranking -------------------------------------------------
_WITHOUT_KERNEL = "rectified"


@dataclass(frozen=True)
class Contribution:
    """How one predictor differs from the rectified law."""

    predictor: str
    moved: float  # largest change of a predicted loss, as a share of it
    reordered: int  # pairs of candidates it puts in another order
    pairs: int
    choice: str  # its lowest predicted loss
    other_choice: str  # the rectified law's
    error_ratio: float  # of the RMSEs in log loss, NaN where the truth is not known


def contributions(result: Result) -> Sequence[Contribution]:
    """A line per predictor that reads the kernel and has a prediction."""
    without = _predicted(result, _WITHOUT_KERNEL)
    if without.empty:
        return []
    return [
        _contribution(result, name, _predicted(result, name), without)
        for name in names_reading("kernel")
        if not _predicted(result, name).empty
    ]


def reads_kernel(predictor: str) -> bool:
    return predictor in names_reading("kernel")


def _predicted(result: Result, predictor: str) -> pd.Series:
    rows = result.predictions[result.predictions["predictor"] == predictor]
    return rows.set_index("candidate")["predicted"].dropna()


def _contribution(result: Result, name: str, ours: pd.Series, without: pd.Series) -> Contribution:
    both = ours.index.intersection(without.index)
    a, b = ours[both].to_numpy(dtype=float), without[both].to_numpy(dtype=float)
    pairs = list(combinations(range(len(both)), 2))
    return Contribution(
        predictor=name,
        moved=float(np.abs(a / b - 1).max(initial=0.0)),
        reordered=sum((a[i] - a[j]) * (b[i] - b[j]) < 0 for i, j in pairs),
        pairs=len(pairs),
        choice=str(ours.idxmin()),
        other_choice=str(without.idxmin()),
        error_ratio=_rmse(result, name) / _rmse(result, _WITHOUT_KERNEL),
    )


def _rmse(result: Result, predictor: str) -> float:
    found = result.scores.loc[result.scores["predictor"] == predictor, "rmse_log"]
    return float(found.iloc[0]) if len(found) else float("nan")


# --- curvature --------------------------------------------------------------------------------
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


def layers(result: Result) -> list[Layers]:
    """The cell with most data of each candidate, in the order of the ranking."""
    tables = []
    for name in result.candidates if len(result.layers) else []:
        cells = result.layers[result.layers["candidate"] == name]
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


def transitions(result: Result) -> list[Transition]:
    """A line per candidate with a crossing, in the order of the ranking."""
    found = {(row["candidate"], row["remainder"]): row for row in records(result.crossings)}
    return [
        _transition(*(found[name, remainder] for remainder in REMAINDERS))
        for name in result.candidates
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
        start=_size(literal["transition_size"]),
    )


def _reading(row: dict[str, Any]) -> Reading:
    low, high = row["low"], row["high"]
    known = not (math.isnan(low) or math.isnan(high))
    return Reading(
        size=_size(row["crossing_size"]),
        interval=f"{_size(low)} to {_size(high)}" if known else "",
        agrees={True: "yes", False: "no"}.get(row["agrees"], text.MISSING),
    )


def _size(size: float) -> str:
    """A number of training examples that may be none or without end."""
    if math.isnan(size):
        return text.MISSING
    if size < 1:
        return "< 1"
    return "∞" if math.isinf(size) else text.size(size)


def agreement(result: Result) -> list[str]:
    """How far the bound's transition is the law's, a sentence for each reading."""
    readings = {
        "literal": "With the remainder as n^(−3/4) nats",
        "fitted": "With its constant fitted to the gaps",
    }
    return [
        f"{readings[row['remainder']]}, {_agreement(row)}." for row in records(result.agreement)
    ]


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


def worth(result: Result) -> str:
    """Whether the bound says anything at the sizes examined, and what measuring it took."""
    count = len(result.bounds[["candidate", "size"]].drop_duplicates())
    known = "the largest loss seen, C, or the loss of guessing, ln V"
    empty = len(vacuous(result.bounds))
    if not empty:
        said = f"No bound is vacuous: each is lower than {known}."
    else:
        said = (
            f"{empty} of {count} bounds, one per candidate and size, are vacuous, no lower than "
            f"{known}; they are marked in the table of every cell."
        )
    return f"{said} {_time_share(result)}".rstrip()


def _time_share(result: Result) -> str:
    """The seconds of the curvature against those of the cells that were paid for."""
    paid = result.cell_costs.loc[result.cell_costs["size"] <= result.budget, "seconds"].sum()
    spent = result.bounds["seconds"].sum()
    if not (paid > 0 and spent > 0):
        return ""
    return f"Measuring it took {text.percent(spent / paid)} of the time of the sweep's cells."
