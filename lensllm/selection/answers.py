"""A predictor's answers to all that a ranking asks, as tables that can be stored and read again.

A ranking asks about several sets of curves: *all* candidates; those still *racing*, where a policy
dropped others; and *resample 0*, *resample 1* …, the curves from resampled repeats.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from lensllm.core import seeds
from lensllm.core.errors import DataError
from lensllm.curves.curve import Array, Curves
from lensllm.predictors import PREDICTORS, Prediction, Registry
from lensllm.selection.backtest import ERROR_UNIT, Backtest, StoredAnswers, all_origins

ALL, RACING = "all", "racing"
_RESAMPLES = 5  # sets of repeats behind the comparison
_TYPES = {
    "curves": str, "budget": np.int64, "candidate": str, "size": np.int64, "loss": float,
    "sd_log": float,
}  # fmt: skip
_SKIPPED_TYPES = {"curves": str, "budget": np.int64, "reason": str}


@dataclass(frozen=True)
class Question:
    """A ranking that is asked for."""

    target: float
    budgets: tuple[float, ...]  # ascending; each counts as the largest size it can pay for
    predictors: tuple[str, ...]
    reference: str  # the predictor whose ranking is the answer
    seed: int
    draws: int = 4000
    registry: Registry = field(default_factory=lambda: PREDICTORS)  # with their settings
    error_unit: str = ERROR_UNIT  # the predictor in whose sd errors are counted


@dataclass(frozen=True)
class Answers:
    """The answers of one predictor."""

    answers: pd.DataFrame  # schema prediction/answers
    skipped: pd.DataFrame  # schema prediction/skipped: where it has none, and why


def curve_sets(
    curves: Curves, question: Question, scored: bool, dropped: Collection[str] = ()
) -> dict[str, Curves]:
    """The sets of curves up to the largest budget that a ranking asks about, by name.

    Repeats are resampled only where the ranking is ``scored`` and there are several.
    """
    whole = curves.until(question.budgets[-1])
    sets = {ALL: whole}
    if dropped:
        sets[RACING] = whole.only([name for name in curves.candidates if name not in dropped])
    repeats = whole.losses.shape[2]
    for i in range(_RESAMPLES if scored and repeats > 1 else 0):
        draw = seeds.generator(question.seed, "seeds", i).integers(repeats, size=repeats)
        sets[f"resample {i}"] = replace(whole, losses=whole.losses[:, :, draw])
    return sets


def answer(
    name: str, curves: Curves, question: Question, scored: bool, dropped: Collection[str] = ()
) -> Answers:
    """Ask the predictor ``name``, no mixture, for all that a ranking needs of it.

    ``scored``: some loss at the target is known; the others as for ``ranking.rank``.
    """
    found: list[pd.DataFrame] = []
    skipped: list[dict[str, Any]] = []
    for label, some in curve_sets(curves, question, scored, dropped).items():
        backtest = Backtest(some, question.target, question.registry, question.error_unit)
        origins = {len(some.sizes)}
        if label in (ALL, RACING):
            known_sizes = map(backtest.known, question.budgets)
            origins = set().union(*(all_origins(some.sizes, known) for known in known_sizes))
        for known in sorted(origins):
            about: dict[str, Any] = {"curves": label, "budget": int(some.sizes[known - 1])}
            try:
                predicted = backtest.ask(name, known)
            except DataError as error:
                skipped.append({**about, "reason": str(error)})
                continue
            later = np.append(some.sizes[known:], question.target)
            found.append(_rows(some.candidates, later, predicted).assign(**about))
    rows = pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=list(_TYPES))
    return Answers(
        rows[list(_TYPES)].astype(_TYPES),
        pd.DataFrame(skipped, columns=list(_SKIPPED_TYPES)).astype(_SKIPPED_TYPES),
    )


def stored_answers(answers: Iterable[tuple[str, Answers]]) -> Mapping[str, StoredAnswers]:
    """The answers of several predictors, by set of curves, as a backtest reads them."""
    found: dict[str, dict[tuple[str, int], Prediction | str]] = {}
    for name, tables in answers:
        grouped: Any = tables.answers.groupby(["curves", "budget"], sort=False)
        for (label, budget), rows in grouped:
            shape = rows["candidate"].nunique(), -1
            loss, sd = (rows[column].to_numpy().reshape(shape) for column in ("loss", "sd_log"))
            stated = np.isfinite(sd).any()
            found.setdefault(label, {})[name, budget] = Prediction(loss, sd if stated else None)
        for label, budget, reason in tables.skipped[list(_SKIPPED_TYPES)].to_numpy().tolist():
            found.setdefault(label, {})[name, budget] = reason
    return found


def _rows(candidates: Sequence[str], later: Array, predicted: Prediction) -> pd.DataFrame:
    """One row per candidate and ``later`` size, the target last."""
    cells = pd.MultiIndex.from_product([candidates, later], names=["candidate", "size"])
    sd = np.nan if predicted.sd_log is None else predicted.sd_log.ravel()
    table = pd.DataFrame({"loss": predicted.loss.ravel(), "sd_log": sd}, index=cells)
    return table.reset_index()
