"""The rows and sentences about laws, kernels, curvature, cost and the settings of training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from lensllm.diagnostics.checks.curvature import vacuous
from lensllm.predictors import names_reading
from lensllm.report import text
from lensllm.report.answer_tables import records
from lensllm.report.result import Array, Result
from lensllm.spectra.spectrum import by_probes

Row = dict[str, Any]


def laws(result: Result) -> tuple[list[Row], list[Row]]:
    """The fits of one law, with their phase at the budget, and those of all others.

    The first is the law that is drawn; without one the rectified, if it was fitted.
    """
    place = {name: index for index, name in enumerate(result.candidates)}
    known = result.fits["law"].tolist()
    fits = result.fits.assign(place=result.fits["candidate"].map(place))
    fits = fits.sort_values(["law", "place"])
    start = fits["transition_size"]
    seen = [~np.isfinite(start), start <= result.budget]
    fits["phase"] = np.select(seen, ["unknown", "power"], "pre-power")
    wanted = (result.drawn_law, "rectified", *known)
    first = fits["law"] == next((name for name in wanted if name in known), None)
    return records(fits[first]), records(fits[~first])


# --- kernels ----------------------------------------------------------------------------------
_FEWEST_PROBES = 16  # of the columns that show how F depends on their number
_WITHOUT_KERNEL = "rectified"


def kernels(result: Result) -> list[Row]:
    """A line per candidate with a kernel: F(0), effective rank (Σλ)² / Σλ², and what is left.

    ``left`` has (F(t)/F(0), its standard error) per count of ``probe_counts`` at the median flow
    ``time`` of the candidate's sizes; None where there are fewer probes, or no time is known.
    """
    paid = result.cells[(result.cells["size"] > 0) & (result.cells["size"] <= result.budget)]
    times = paid.groupby(["candidate", "size"])["learning_rate_integral"].mean()
    stopped = times.groupby("candidate").median()
    counts, rows = probe_counts(result), []
    for name in result.candidates:
        if name not in result.spectra:
            continue
        values, time = result.spectra[name].eigenvalues, float(stopped.get(name, math.nan))
        sampled, square = probes(result, name), float((values**2).sum())
        usable = [n for n in counts if 2 <= n <= len(values) and math.isfinite(time)]
        shares, errors = by_probes(*sampled, usable, time)
        left = dict(zip(usable, zip(shares.tolist(), errors.tolist(), strict=True), strict=True))
        rows.append({
            "candidate": name,
            "probes": len(values),
            "residual": float(result.spectra[name].residual(0.0)),
            "effective_rank": float(values.sum()) ** 2 / square if square > 0 else math.nan,
            "time": time,
            "left": [left.get(n) for n in counts],
        })  # fmt: skip
    return rows


def probe_counts(result: Result) -> list[int]:
    """16, 32, 64, … and the number of probes that the largest kernel has."""
    largest = max((len(matrix) for matrix in result.kernel_matrices.values()), default=0)
    counts = [2**k for k in range(largest.bit_length()) if _FEWEST_PROBES <= 2**k < largest]
    return [*counts, largest]


def probes(result: Result, candidate: str) -> tuple[Array, Array]:
    """K, (n, n), and ρ, (n,), of a candidate with a kernel."""
    matrix = result.kernel_matrices[candidate].sort_values("row")
    return np.stack(matrix["kernel"].to_list()), matrix["residual_norm"].to_numpy(dtype=float)


def contributions(result: Result) -> list[Row]:
    """Difference of each predictor that reads the kernel from the rectified law.

    ``moved`` is the largest change of a predicted loss, as a share of it; ``error_ratio`` that of
    the RMSEs in log loss, NaN where the truth is not known.
    """
    predicted = {
        str(name): rows.set_index("candidate")["predicted"].dropna()
        for name, rows in result.predictions.groupby("predictor")
    }
    errors = result.scores.set_index("predictor")["rmse_log"]
    without, lines = predicted.get(_WITHOUT_KERNEL, pd.Series()), []
    for name in names_reading("kernel"):
        ours = predicted.get(name, pd.Series())
        if without.empty or ours.empty:
            continue
        both = ours.index.intersection(without.index)
        a, b = ours[both].to_numpy(dtype=float), without[both].to_numpy(dtype=float)
        pairs = list(combinations(range(len(both)), 2))
        lines.append({
            "predictor": name,
            "moved": float(np.abs(a / b - 1).max(initial=0.0)),
            "reordered": sum((a[i] - a[j]) * (b[i] - b[j]) < 0 for i, j in pairs),
            "pairs": len(pairs),
            "choice": ours.idxmin(),
            "other_choice": without.idxmin(),
            "error_ratio": errors.get(name, math.nan) / errors.get(_WITHOUT_KERNEL, math.nan),
        })  # fmt: skip
    return lines


# --- curvature --------------------------------------------------------------------------------
LAYERS_SHOWN = 12  # the largest terms; the artefact's table has every layer


def layers(result: Result) -> list[Row]:
    """The layers with the largest terms of each candidate's cell with most data.

    ``shown`` are their rows of curvature/layers, ``hidden`` counts the others, ``hidden_share`` is
    those others' share of Σ √h.
    """
    tables = []
    for name in result.candidates if len(result.layers) else []:
        rows = result.layers[result.layers["candidate"] == name]
        rows = rows[rows["size"] == rows["size"].max()]
        rows = rows[rows["repeat"] == rows["repeat"].min()]
        if rows.empty:
            continue
        rows = rows.sort_values("vhv_positive_max", ascending=False, kind="stable")
        terms = np.sqrt(np.maximum(rows["vhv_positive_max"].to_numpy(dtype=float), 0))
        tables.append({
            "candidate": name,
            "size": int(rows["size"].iloc[0]), "repeat": int(rows["repeat"].iloc[0]),
            "shown": rows.head(LAYERS_SHOWN), "hidden": max(0, len(rows) - LAYERS_SHOWN),
            "hidden_share": float(terms[LAYERS_SHOWN:].sum()) / (float(terms.sum()) or 1.0),
        })  # fmt: skip
    return tables


def transitions(result: Result) -> list[dict[str, Row]]:
    """Per candidate its rows of crossing/candidates by remainder, in the order of the ranking.

    Sizes are in words: ``crossing`` is n*, ``interval`` its 80 % interval, ``start`` the law's D*;
    ``agreement`` says whether n* and D* lie on the same side of the budget.
    """
    found: dict[str, dict[str, Row]] = {}
    for row in records(result.crossings):
        low, high = row["low"], row["high"]
        known = not (math.isnan(low) or math.isnan(high))
        row |= {
            "crossing": _size(row["crossing_size"]),
            "interval": f"{_size(low)} to {_size(high)}" if known else "",
            "start": _size(row["transition_size"]),
            "agreement": {True: "yes", False: "no"}.get(row["agrees"], text.MISSING),
        }
        found.setdefault(row["candidate"], {})[row["remainder"]] = row
    return [found[name] for name in result.candidates if name in found]


def _size(size: float) -> str:
    """A number of training examples that may be none or without end."""
    if math.isnan(size):
        return text.MISSING
    if size < 1:
        return "< 1"
    return "∞" if math.isinf(size) else text.size(size)


def agreement(result: Result) -> list[str]:
    """Agreement of the bound's transition with the law's, a sentence for each reading."""
    readings = {
        "literal": "With the remainder as n^(−3/4) nats",
        "fitted": "With its constant fitted to the gaps",
    }
    sentences = []
    for row in records(result.agreement):
        count, within = row["candidates"], row["within_interval"]
        words = (
            f"{readings[row['remainder']]}, the bound’s and the law’s transition lie on the same "
            f"side of the budget for {round(count * row['same_phase'])} of {count} candidates and "
            f"{row['doublings']:.1f} doublings apart in the median"
        )
        if not math.isnan(within):
            words += f"; D* is within the interval of n* for {text.percent(within)}"
        sentences.append(f"{words}.")
    return sentences


def worth(result: Result) -> str:
    """Number of vacuous bounds at the examined sizes, and the cost of measuring them."""
    count = len(result.bounds[["candidate", "size"]].drop_duplicates())
    known = "the largest loss seen, C, or the loss of guessing, ln V"
    words = f"No bound is vacuous: each is lower than {known}."
    if empty := len(vacuous(result.bounds)):
        words = (
            f"{empty} of {count} bounds, one per candidate and size, are vacuous, no lower than "
            f"{known}; they are marked in the table of every cell."
        )
    paid = result.cell_costs.loc[result.cell_costs["size"] <= result.budget, "seconds"].sum()
    spent = result.bounds["seconds"].sum()
    if paid > 0 and spent > 0:
        words += (
            f" Measuring it took {text.percent(spent / paid)} of the time of the sweep's cells."
        )
    return words


# --- cost -------------------------------------------------------------------------------------
def cost(result: Result) -> list[Row]:
    """Per candidate what it cost and what it would have in full; the last line is of all.

    Seconds and memory are those of the cells up to the budget. No line at all where nothing is
    known of the cost, as for losses measured elsewhere.
    """
    known = result.cost.set_index("candidate")[["spent_flops", "full_flops"]]
    if not np.isfinite(known).all(axis=1).any():
        return []
    paid = result.cell_costs[result.cell_costs["size"] <= result.budget].groupby("candidate")
    machine = paid.agg({"seconds": "sum", "peak_memory_bytes": "max"})
    table = _with_total(known.join(machine.astype(float)), result.candidates)
    return records(table.assign(share=table["spent_flops"] / table["full_flops"]))


def forecasts(result: Result) -> list[Row]:
    """Predicted and actual cost of each candidate's cells; the last line is the total.

    No line where no candidate was probed.
    """
    rows = result.forecast.set_index("candidate")
    table = _with_total(rows, result.candidates)
    return records(table.assign(seconds_ratio=table["seconds"] / table["predicted_seconds"]))


def _with_total(rows: pd.DataFrame, candidates: Sequence[str]) -> pd.DataFrame:
    """``rows`` in the order of ``candidates``, then their sum, and the largest peak of memory."""
    rows = rows.loc[[name for name in candidates if name in rows.index]]
    if rows.empty:
        return rows.reset_index()
    total = {
        name: values.max() if "memory" in str(name) else values.sum(skipna=name == "seconds")
        for name, values in rows.items()
    }
    if rows["seconds"].isna().all():
        total["seconds"] = math.nan
    table = pd.concat([rows, pd.DataFrame(total, index=["all candidates"])])
    return table.rename_axis("candidate").reset_index()


# --- settings of training ---------------------------------------------------------------------
# What makes two candidates' training equally long; other differences are a matter of what suits.
_EFFORT = ("epochs", "batch_size")


def learning_rates(result: Result) -> list[Row]:
    """The rate of each candidate for which one was chosen, in the order of the ranking.

    ``losses`` has (rate tried, validation loss), ascending; ``edge`` says whether the chosen rate
    is the largest or smallest of those tried.
    """
    found = []
    for name in result.candidates:
        if name not in result.learning_rates:
            continue
        table = result.learning_rates[name].sort_values("learning_rate")
        tried = table["learning_rate"].tolist()
        rate = float(table.loc[table["chosen"], "learning_rate"].iloc[0])
        losses = list(zip(tried, table["validation_nats_per_token"].tolist(), strict=True))
        edge = {tried[0]: "smallest", tried[-1]: "largest"}.get(rate, "")
        found.append({"candidate": name, "rate": rate, "losses": losses, "edge": edge})
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
