"""The rows of the tables that compare predictors, at the budget and at every smaller one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from lensllm.report import text
from lensllm.report.answer_tables import records
from lensllm.report.result import Result

SCORES = {  # column → heading, and whether the best value is the largest, smallest or neither
    "rel_acc": ("RelAcc", max),
    "regret": ("Regret", min),
    "pearson": ("Pearson", max),
    "spearman": ("Spearman", max),
    "kendall": ("Kendall", max),
    "rmse_log": ("RMSE, log", min),
    "coverage_80": ("Coverage", None),
    "p_best_log_score": ("Log score", min),
}
WITH_INTERVAL = ("rel_acc", "pearson", "rmse_log")  # the others' are in the fold below the table
BY_BUDGET = ("rel_acc", "pearson")  # of both, more is better


@dataclass(frozen=True)
class Confidence:
    """What a bootstrap says of one score of one predictor."""

    interval: str  # 95 %
    difference: float  # to the default predictor's score, paired
    difference_interval: str
    verdict: str  # better | worse | empty: than the default, with 95 % confidence


@dataclass(frozen=True)
class Predictor:
    """One line of the comparison: what a predictor ranks first, and how it scored."""

    name: str
    first: str
    predicted: float
    p_best: float
    scores: Mapping[str, float]
    confidence: Mapping[str, Confidence]  # of the scores that have one


def predictors(result: Result) -> list[Predictor]:
    """Every predictor, the default first, the others by the regret of what they rank first."""
    scores = {row["predictor"]: row for row in records(result.scores)}
    lines = []
    for name, rows in result.predictions.groupby("predictor"):
        best = rows.sort_values(["rank", "candidate"]).iloc[0]
        line = Predictor(
            name=str(name),
            first=best["candidate"],
            predicted=best["predicted"],
            p_best=best["p_best"],
            scores=scores.get(name, {}),
            confidence=_confidence(result, str(name)),
        )
        lines.append(line)

    def order(line: Predictor) -> tuple[bool, float, str]:
        regret = line.scores.get("regret", math.nan)
        known = regret if math.isfinite(regret) else math.inf
        return line.name != result.predictor, known, line.name

    return sorted(lines, key=order)


def _confidence(result: Result, name: str) -> dict[str, Confidence]:
    rows = result.comparison[result.comparison["predictor"] == name]
    return {
        row["score"]: Confidence(
            interval=text.interval(row["low"], row["high"]),
            difference=row["difference"],
            difference_interval=text.interval(row["difference_low"], row["difference_high"]),
            verdict=_verdict(row["score"], row["difference_low"], row["difference_high"]),
        )
        for row in records(rows)
    }


def _verdict(score: str, low: float, high: float) -> str:
    """Empty when the interval of the difference holds zero."""
    if not (low > 0 or high < 0):
        return ""
    _, choose = SCORES[score]
    return "better" if (low > 0) == (choose is max) else "worse"


def best_scores(lines: list[Predictor]) -> dict[str, float]:
    """The best value of each score that has one."""
    best = {}
    for column, (_, choose) in SCORES.items():
        values = [v for line in lines if math.isfinite(v := line.scores.get(column, math.nan))]
        if choose is not None and values:
            best[column] = choose(values)
    return best


def leads(score: float, best: float) -> bool:
    """Whether ``score`` is the best as far as its decimals show; equal numbers are marked alike."""
    return math.isfinite(score) and text.score(score) == text.score(best)


def mixtures(result: Result) -> dict[str, str]:
    """What each mixture is made of at the budget, in words: 36 % ats + 64 % hrb.

    The default predictor first, if it is one.
    """
    rows = result.weights[result.weights["budget"] == result.budget]
    found = {
        str(name): " + ".join(
            f"{text.percent(weight)} {part}"
            for part, weight in zip(parts["part"], parts["weight"], strict=True)
        )
        for name, parts in rows.groupby("predictor")
    }
    return dict(sorted(found.items(), key=lambda item: item[0] != result.predictor))


@dataclass(frozen=True)
class Skipped:
    """A predictor that could not answer, why, and at which budgets if not at all."""

    predictor: str
    reason: str
    budgets: tuple[int, ...]  # empty: all


def skipped(result: Result) -> list[Skipped]:
    """One line per predictor and reason, in the order of the table."""
    lines = []
    for (name, reason), rows in result.skipped.groupby(["predictor", "reason"], sort=False):
        budgets = tuple(sorted(int(budget) for budget in rows["budget"]))
        some = budgets if set(result.budgets) - set(budgets) else ()
        lines.append(Skipped(str(name), str(reason), some))
    return lines


@dataclass(frozen=True)
class ByBudget:
    """One score of every predictor at every budget."""

    heading: str
    values: pd.DataFrame  # predictors × (budgets, "mean"); NaN where a predictor was skipped
    best: Mapping[object, float]  # by column


def by_budget(result: Result) -> list[ByBudget]:
    """A table per score, the default predictor first, the others by their mean Pearson.

    Empty with one budget only, or without a truth.
    """
    if len(result.budgets) < 2 or result.all_scores.empty:
        return []
    tables = {score: _by_budget(result, score) for score in BY_BUDGET}
    mean = tables["pearson"]["mean"].drop(result.predictor)
    order = [result.predictor, *mean.sort_values(ascending=False, kind="stable").index]
    return [
        ByBudget(SCORES[score][0], values.loc[order], values.max().to_dict())
        for score, values in tables.items()
    ]


def _by_budget(result: Result, score: str) -> pd.DataFrame:
    values = result.all_scores.pivot(index="predictor", columns="budget", values=score)
    # a mean over fewer budgets would not be comparable
    return values.assign(mean=values.mean(axis=1, skipna=False))
