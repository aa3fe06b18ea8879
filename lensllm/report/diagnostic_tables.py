"""The rows of the kernels' table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lensllm.report.data import Array, ReportData
from lensllm.spectra.spectrum import Spectrum, by_probes

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


def kernels(data: ReportData) -> list[KernelRow]:
    """A line per candidate with a kernel, in the order of the ranking."""
    counts, stopped = probe_counts(data), _median_times(data)
    return [
        _kernel(name, data.kernels[name], probes(data, name), stopped.get(name, math.nan), counts)
        for name in data.candidates
        if name in data.kernels
    ]


def probe_counts(data: ReportData) -> list[int]:
    """16, 32, 64, … and the number of probes that the largest kernel has."""
    largest = max((len(matrix) for matrix in data.matrices.values()), default=0)
    counts = [2**k for k in range(largest.bit_length()) if _FEWEST_PROBES <= 2**k < largest]
    return [*counts, largest]


def probes(data: ReportData, candidate: str) -> tuple[Array, Array]:
    """K, (n, n), and ρ, (n,), of a candidate with a kernel."""
    matrix = data.matrices[candidate].sort_values("row")
    return np.stack(matrix["kernel"].to_list()), matrix["residual_norm"].to_numpy(dtype=float)


def _median_times(data: ReportData) -> dict[str, float]:
    """Of the sizes up to the budget, as the LensLLM law takes it in phase mode."""
    paid = data.cells[(data.cells["size"] > 0) & (data.cells["size"] <= data.budget)]
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
