"""What the kernel contributed to this ranking: laws that read it beside the same law without.

The rectified law (Lin et al. 2024) is the LensLLM law (Zeng et al. 2025, eq. 10) whose offset owes
nothing to a kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from lensllm.predictors import names_reading
from lensllm.report.data import ReportData

WITHOUT = "rectified"


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


def contributions(data: ReportData) -> Sequence[Contribution]:
    """A line per predictor that reads the kernel and has a prediction."""
    without = _predicted(data, WITHOUT)
    if without.empty:
        return []
    return [
        _compare(data, name, _predicted(data, name), without)
        for name in names_reading("kernel")
        if not _predicted(data, name).empty
    ]


def reads_kernel(predictor: str) -> bool:
    return predictor in names_reading("kernel")


def _predicted(data: ReportData, predictor: str) -> pd.Series:
    rows = data.predictions[data.predictions["predictor"] == predictor]
    return rows.set_index("candidate")["predicted"].dropna()


def _compare(data: ReportData, name: str, ours: pd.Series, without: pd.Series) -> Contribution:
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
        error_ratio=_error(data, name) / _error(data, WITHOUT),
    )


def _error(data: ReportData, predictor: str) -> float:
    found = data.scores.loc[data.scores["predictor"] == predictor, "rmse_log"]
    return float(found.iloc[0]) if len(found) else float("nan")
