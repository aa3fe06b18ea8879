"""The rows of the diagnostics' tables: kernels in a few numbers, layers with the largest terms."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lensllm.report.data import ReportData
from lensllm.spectrum import Spectrum

LAYERS_SHOWN = 12  # the largest terms; the artefact's table has every layer


@dataclass(frozen=True)
class KernelRow:
    """One spectrum in three numbers."""

    candidate: str
    probes: int
    residual: float  # F(0)
    effective_rank: float  # (Σλ)² / Σλ²
    left: float  # F(t)/F(0) at the candidate's longest measured flow time
    time: float


def kernels(data: ReportData) -> list[KernelRow]:
    """A line per candidate with a kernel, in the order of the ranking."""
    stopped = data.cells.groupby("candidate")["learning_rate_integral"].max()
    lines = []
    for name in data.candidates:
        if name in data.kernels:
            lines.append(_kernel(name, data.kernels[name], float(stopped.get(name, math.nan))))
    return lines


def _kernel(name: str, spectrum: Spectrum, time: float) -> KernelRow:
    values = spectrum.eigenvalues
    start = float(spectrum.residual(0.0))
    square = float((values**2).sum())
    return KernelRow(
        candidate=name,
        probes=len(values),
        residual=start,
        effective_rank=float(values.sum()) ** 2 / square if square > 0 else math.nan,
        left=float(spectrum.residual(time)) / start if start > 0 else math.nan,
        time=time,
    )


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
    for name in data.candidates:
        cells = sorted((-size, seed) for who, size, seed in data.layers if who == name)
        if not cells:
            continue
        size, seed = -cells[0][0], cells[0][1]
        frame = data.layers[name, size, seed]
        frame = frame.sort_values("vhv_positive_max", ascending=False, kind="stable")
        terms = np.sqrt(np.maximum(frame["vhv_positive_max"].to_numpy(dtype=float), 0))
        rest = float(terms[LAYERS_SHOWN:].sum()) / (float(terms.sum()) or 1.0)
        shown = frame.head(LAYERS_SHOWN)
        tables.append(Layers(name, size, seed, shown, len(frame) - len(shown), rest))
    return tables
