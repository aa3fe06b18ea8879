"""The result of a finished run: every table that a person or a page reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lensllm.laws.epochs import effective_size
from lensllm.selection import ranking
from lensllm.spectra.spectrum import Spectrum
from lensllm.store.schemas import empty

Array = NDArray[np.float64]

METRICS = {"bits_per_byte": "bits per byte", "nats_per_token": "nats per token"}
TABLES = {  # field -> schema
    "cells": "curve/cells",
    "fits": "law/fits",
    "all_predictions": "ranking/predictions",
    "all_scores": "ranking/scores",
    "comparison": "ranking/comparison",
    "weights": "ranking/weights",
    "skipped": "ranking/skipped",
    "findings": "checks/findings",
    "outcomes": "checks/outcomes",
    "decisions": "sweep/decisions",
    "simulated_cost": "simulation/cost",
    "notes": "losses/notes",
    "cost": "ranking/cost",
    "forecast": "report/forecast",
    "drift": "drift/sizes",
    "bounds": "curvature/bound",
    "crossings": "crossing/candidates",
    "agreement": "crossing/agreement",
}


@dataclass(frozen=True)
class Result:
    """The tables of one ranking; frames follow the schemas of ``lensllm.store.schemas``.

    Losses are in the unit of ``metric``, sizes D in training examples, costs in FLOPs, seconds and
    bytes. A frame without columns becomes an empty one of its schema.

    Raises:
        ValueError: the metric is unknown or ``predictor`` has no predictions.
    """

    pipeline: str
    metric: str  # a key of METRICS; every predicted and measured loss is in it
    target: int  # D at which the candidates are compared
    budget: int  # largest D paid for
    predictor: str  # whose predictions are the answer
    verdict: str  # the answer in one or two sentences
    cells: pd.DataFrame  # curve/cells: one row per fine-tuning run
    fits: pd.DataFrame  # law/fits
    all_predictions: pd.DataFrame  # ranking/predictions, at every budget
    all_scores: pd.DataFrame  # ranking/scores, at every budget; no rows without a truth
    comparison: pd.DataFrame  # ranking/comparison; no rows without a truth
    weights: pd.DataFrame  # ranking/weights: what mixtures are made of
    skipped: pd.DataFrame  # ranking/skipped
    findings: pd.DataFrame  # checks/findings
    decisions: pd.DataFrame  # sweep/decisions; no rows when every candidate got every size
    simulated_cost: pd.DataFrame  # simulation/cost; empty unless a policy was played on a table
    notes: pd.DataFrame  # losses/notes; empty unless the losses were measured elsewhere
    cost: pd.DataFrame  # ranking/cost; NaN where unknown
    drift: pd.DataFrame  # drift/sizes
    bounds: pd.DataFrame  # curvature/bound of every cell that was examined
    layers: pd.DataFrame  # curvature/layers of these cells, with their candidate, size and repeat
    densities: Mapping[str, pd.DataFrame]  # candidate → curvature/density, where it was measured
    crossings: pd.DataFrame  # crossing/candidates; no rows where fewer than two sizes were examined
    agreement: pd.DataFrame  # crossing/agreement
    cell_costs: pd.DataFrame  # candidate, size, repeat, seconds, peak_memory_bytes of finetune/cell
    forecast: pd.DataFrame  # report/forecast; no rows without a probe
    spectra: Mapping[str, Spectrum]  # candidate → spectrum of its kernel
    kernel_matrices: Mapping[str, pd.DataFrame]  # kernel/matrix of the candidates in ``spectra``
    overlaps: Mapping[str, pd.Series]  # overlap/summary where the pretraining text is known
    failed: Sequence[tuple[str, str]]  # (cell, reason)
    config: Mapping[str, Any]  # resolved, without secrets
    versions: Mapping[str, str]  # of what trained the candidates, or else of what ranks them
    learning_rates: Mapping[str, pd.DataFrame] = field(default_factory=dict)  # rate/rates
    outcomes: pd.DataFrame = field(default_factory=pd.DataFrame)  # checks/outcomes
    extra_tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)  # by title, as text

    def __post_init__(self) -> None:
        """Refuse what no part of the report could draw."""
        if self.metric not in METRICS:
            raise ValueError(f"metric {self.metric!r} is none of {', '.join(METRICS)}")
        if not (self.predictions["predictor"] == self.predictor).any():
            raise ValueError(f"no predictions by the default predictor {self.predictor!r}")
        for name, table in TABLES.items():
            if not len(getattr(self, name).columns):
                object.__setattr__(self, name, empty(table))

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """The rows of ``all_predictions`` that are made from everything that was paid for."""
        return self.all_predictions[self.all_predictions["budget"] == self.budget]

    @cached_property
    def scores(self) -> pd.DataFrame:
        """The rows of ``all_scores`` at ``budget``."""
        return self.all_scores[self.all_scores["budget"] == self.budget]

    @property
    def target_epochs(self) -> int:
        """Epochs at the target for each epoch at the other sizes."""
        if self.config.get("sweep", {}).get("schedule") != "trunk":
            return 1
        return int(self.config["finetune"]["epochs"])

    @property
    def effective_target(self) -> int:
        """Examples that are worth the target's epochs when they are read once."""
        return effective_size(self.target, self.target_epochs)

    @property
    def budgets(self) -> list[int]:
        """Every budget that was predicted from, ascending."""
        return sorted(int(budget) for budget in self.all_predictions["budget"].unique())

    @property
    def replayed(self) -> bool:
        """True for losses measured elsewhere: a table of losses has at least one note."""
        return len(self.notes) > 0

    @cached_property
    def parameters(self) -> dict[str, float]:
        """Weights of each candidate that has a cell; NaN where unknown."""
        counts = self.cells.groupby("candidate")["parameters"].max()
        numbers = counts.astype("Float64").astype(float)
        return {str(name): number for name, number in numbers.items()}

    @property
    def saved_examples(self) -> float:
        """Share of a full comparison's training examples that a policy did without, or NaN."""
        if self.simulated_cost.empty:
            return math.nan
        row = self.simulated_cost.iloc[0]
        return 1 - float(row["spent_examples"]) / float(row["full_examples"])

    @property
    def saved(self) -> float | None:
        """Share of the cost of fine-tuning every candidate on the target that was not spent.

        In FLOPs, or in examples where a policy was played on a table; None where neither is known.
        """
        if len(self.simulated_cost):
            return self.saved_examples
        known = self.cost.dropna()
        if known.empty:
            return None
        return 1.0 - float(known["spent_flops"].sum() / known["full_flops"].sum())

    @property
    def policy(self) -> str:
        """The sweep's policy, or the one that was played on a table; ``all`` without one."""
        section: Mapping[str, Any] = self.config.get("sweep", self.config)
        return str(section.get("policy", "all"))

    @cached_property
    def dropped(self) -> dict[str, int]:
        """The largest D of every candidate that a policy gave no larger one."""
        rows = self.decisions[self.decisions["dropped"] != ""]
        return dict(zip(rows["candidate"], rows["budget"].astype(int), strict=True))

    @property
    def unit(self) -> str:
        """The metric in words."""
        return METRICS[self.metric]

    @cached_property
    def ranking(self) -> pd.DataFrame:
        """The default predictor's rows, best first."""
        rows = self.predictions[self.predictions["predictor"] == self.predictor]
        return rows.sort_values(["rank", "candidate"])

    @cached_property
    def choice(self) -> str:
        """The candidate to fine-tune: not always the first of the ranking."""
        return ranking.choice(self.ranking)

    @cached_property
    def candidates(self) -> list[str]:
        """Every candidate: the ranked ones best first, then those with too little to rank."""
        ranked = list(self.ranking["candidate"])
        seen = {*self.cells["candidate"].unique(), *self.cost["candidate"]}
        return ranked + sorted(seen - set(ranked))

    @cached_property
    def predicted(self) -> dict[str, float]:
        """The default predictor's loss at the target, of every candidate it ranks."""
        return dict(zip(self.ranking["candidate"], self.ranking["predicted"], strict=True))

    @cached_property
    def truth(self) -> dict[str, float]:
        """Measured loss at the target of every candidate that has one."""
        rows = self.ranking.dropna(subset=["measured"])
        return dict(zip(rows["candidate"], rows["measured"].astype(float), strict=True))

    @cached_property
    def drawn_law(self) -> str | None:
        """The law whose lines are drawn: the default predictor, if it is one."""
        return self.predictor if self.predictor in set(self.fits["law"]) else None

    def fit(self, candidate: str) -> pd.Series | None:
        """The drawn law's row of ``candidate``; None without one, or if it could not be fitted."""
        return self._fits.get(candidate)

    def curve(self, candidate: str) -> pd.Series:
        """Mean loss over seeds by size D of ``candidate``, ascending in D."""
        return self._curves.get(candidate, pd.Series(dtype=float))

    def runs(self, candidate: str) -> pd.Series:
        """Loss of every single run of ``candidate`` by its size D."""
        return self._runs.get(candidate, pd.Series(dtype=float))

    # Grouped once: a table of a million cells is too long to be searched for each candidate.

    @cached_property
    def _fits(self) -> dict[str, pd.Series]:
        drawn = self.fits[self.fits["law"] == self.drawn_law]
        usable = drawn.dropna(subset=["B", "beta", "E", "offset"])
        return {row["candidate"]: row for _, row in usable.iterrows()}

    @cached_property
    def _curves(self) -> dict[str, pd.Series]:
        means = self.cells.groupby(["candidate", "size"])[self.metric].mean()
        return _by_candidate(means.reset_index("candidate"), self.metric)

    @cached_property
    def _runs(self) -> dict[str, pd.Series]:
        return _by_candidate(self.cells.set_index("size"), self.metric)


def _by_candidate(rows: pd.DataFrame, column: str) -> dict[str, pd.Series]:
    return {str(name): values for name, values in rows.groupby("candidate")[column]}
