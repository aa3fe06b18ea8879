"""What a report is made of: the tables of a finished run, and the few look-ups every part needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lensllm.spectrum import Spectrum

Array = NDArray[np.float64]

METRICS = {"bits_per_byte": "bits per byte", "nats_per_token": "nats per token"}


@dataclass(frozen=True)
class ReportData:
    """The tables behind one report; frames follow the schemas of ``lensllm.schemas``.

    Raises:
        ValueError: the metric is unknown or the default predictor has no predictions.
    """

    pipeline: str
    metric: str  # a key of METRICS; every predicted and measured loss is in it
    target: int  # D at which the candidates are compared
    budget: int  # largest D paid for
    default_predictor: str
    verdict: str  # one sentence for the top of the page
    cells: pd.DataFrame  # curve/cells
    fits: pd.DataFrame  # law/fits
    predictions: pd.DataFrame  # ranking/predictions
    scores: pd.DataFrame  # ranking/scores; no rows without a truth
    cost: pd.DataFrame  # ranking/cost
    drift: pd.DataFrame  # drift/sizes
    bounds: pd.DataFrame  # curvature/bound, every cell looked at
    layers: Mapping[tuple[str, int, int], pd.DataFrame]  # (candidate, D, seed) → curvature/layers
    machine: pd.DataFrame  # candidate, size, seed, seconds, peak_memory_bytes of finetune/cell
    kernels: Mapping[str, Spectrum]
    failed: Sequence[tuple[str, str]]  # (cell, reason)
    config: Mapping[str, object]  # resolved, without secrets
    versions: Mapping[str, str]

    def __post_init__(self) -> None:
        """Refuse what no part of the report could draw."""
        if self.metric not in METRICS:
            raise ValueError(f"metric {self.metric!r} is none of {', '.join(METRICS)}")
        if not (self.predictions["predictor"] == self.default_predictor).any():
            raise ValueError(f"no predictions by the default predictor {self.default_predictor!r}")

    @property
    def unit(self) -> str:
        """The metric in words."""
        return METRICS[self.metric]

    @property
    def ranking(self) -> pd.DataFrame:
        """The default predictor's rows, best first."""
        rows = self.predictions[self.predictions["predictor"] == self.default_predictor]
        return rows.sort_values(["rank", "candidate"])

    @property
    def candidates(self) -> list[str]:
        """Every candidate: the ranked ones best first, then those with too little to rank."""
        ranked = list(self.ranking["candidate"])
        seen = {*self.cells["candidate"], *self.cost["candidate"]}
        return ranked + sorted(seen - set(ranked))

    @property
    def truth(self) -> dict[str, float]:
        """Measured loss at the target of every candidate that has one."""
        rows = self.ranking.dropna(subset=["measured"])
        return dict(zip(rows["candidate"], rows["measured"].astype(float), strict=True))

    @property
    def drawn_law(self) -> str | None:
        """The law whose lines are drawn: the default predictor's own, else rectified."""
        laws = list(self.fits["law"])
        wanted = [law for law in (self.default_predictor, "rectified") if law in laws]
        return next(iter(wanted + laws), None)

    def fit(self, candidate: str) -> pd.Series | None:
        """The drawn law's row of ``candidate``, or None when it could not be fitted."""
        rows = self.fits[
            (self.fits["candidate"] == candidate) & (self.fits["law"] == self.drawn_law)
        ]
        usable = rows.dropna(subset=["B", "beta", "E", "offset"])
        return None if usable.empty else usable.iloc[0]

    def curve(self, candidate: str) -> pd.Series:
        """Mean loss over seeds by size D of ``candidate``, ascending in D."""
        rows = self.cells[self.cells["candidate"] == candidate]
        return rows.groupby("size")[self.metric].mean()
