"""The rows and sentences of the page's answer: ranking, truth, checks, rounds and predictors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lensllm.diagnostics.checks.check import Message, fold
from lensllm.report import text
from lensllm.report.result import Result

SCORES = {  # column -> heading, and which value is the best
    "rel_acc": ("RelAcc", "max"),
    "regret": ("Regret", "min"),
    "pearson": ("Pearson", "max"),
    "spearman": ("Spearman", "max"),
    "kendall": ("Kendall", "max"),
    "rmse_log": ("RMSE, log", "min"),
    "coverage_80": ("Coverage", ""),
    "p_best_log_score": ("Log score", "min"),
}
WITH_INTERVAL = ("rel_acc", "pearson", "rmse_log")  # the others' are in the fold below the table
BY_BUDGET = ("rel_acc", "pearson")  # of both, more is better


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as mappings from column to value."""
    return [{str(column): cell for column, cell in row.items()} for row in frame.to_dict("records")]


def scale(result: Result) -> tuple[float, float]:
    """The losses at both ends of the ranking's bars; one very wide interval does not set them."""
    rows = result.ranking
    middle = pd.concat([rows["predicted"], rows["measured"]]).dropna()
    if middle.empty:
        return 0.0, 1.0
    low, high = float(middle.min()), float(middle.max())
    room = max(high - low, 0.05 * abs(high))
    ends = max(rows["low"].min(), low - room), min(rows["high"].max(), high + room)
    return float(np.nanmin([low, ends[0]])), float(np.nanmax([high, ends[1]]))


def ranking(result: Result) -> list[dict[str, Any]]:
    """The default predictor's ranking, best first; ``…_place`` are percents of the bars' scale."""
    low, high = scale(result)
    rows = result.ranking
    losses = rows[["low", "high", "predicted", "measured"]]
    places = (100 * (losses - low) / max(high - low, 1e-12)).clip(0, 100).round(2)
    table = rows.join(places.where(np.isfinite(losses)).add_suffix("_place")).assign(
        parameters=rows["candidate"].map(result.parameters),
        relative_error=(rows["predicted"] - rows["measured"]) / rows["measured"],
        chosen=rows["candidate"] == result.choice,
    )
    return records(table)


def incomplete(result: Result) -> list[str]:
    """Candidates with fewer sizes than the sweep has up to the budget, in words.

    Those that a policy dropped have no more by intent.
    """
    paid = result.cells[result.cells["size"] <= result.budget]
    wanted = paid["size"].nunique()
    found = paid.groupby("candidate")["size"].nunique()
    return [
        f"{name} ({found.get(name, 0)} of {wanted} sizes)"
        for name in result.candidates
        if found.get(name, 0) < wanted and name not in result.dropped
    ]


@dataclass(frozen=True)
class Hindsight:
    """A sentence that compares the choice with the measured losses."""

    outcome: str  # right | wrong | open
    answer: str
    details: list[str]


def was_it_right(result: Result) -> Hindsight:
    """Compare the choice with the best candidate measured at the target."""
    truth, choice, first = result.truth, result.choice, result.candidates[0]
    target, unit = f"{result.target:,}", result.unit
    if not truth:
        words = f"No candidate was fine-tuned on the target of {target} examples, "
        words += "so nothing here can be checked against the truth."
        return Hindsight("open", "Not known.", [words])
    best = min(truth, key=truth.__getitem__)
    reached = {name: text.loss(value) for name, value in truth.items()}
    details = []
    if first != choice and first in truth:
        details.append(f"{first}, predicted lower but less surely, reaches {reached[first]}.")
    details += _agreement(result)
    if choice not in truth:
        words = (
            f"{choice} was chosen but not measured at {target} examples; of those measured, "
            f"{best} is best with {reached[best]} {unit}."
        )
        return Hindsight("open", "Not known.", [words, *details])
    regret = truth[choice] - truth[best]
    if regret > 0:
        words = (
            f"{choice} was chosen and reaches {reached[choice]} {unit} at {target} examples; "
            f"{best} reaches {reached[best]}."
        )
        cost = f"{text.loss(regret)} {unit} ({100 * regret / truth[best]:.1f} % of the best loss)"
        return Hindsight("wrong", "No.", [words, f"That choice costs {cost}.", *details])
    others = [value for name, value in truth.items() if name != choice]
    words = (
        f"{choice}, chosen from at most {result.budget:,} examples, is the best of the "
        f"{len(truth)} candidates measured at {target}: {reached[choice]} {unit}"
    )
    words += f", the next {text.loss(min(others))}." if others else "."
    return Hindsight("right", "Yes.", [words, *details])


def _agreement(result: Result) -> list[str]:
    """A sentence on the coverage of the intervals and the correctness of the order."""
    known = result.ranking.dropna(subset=["measured", "low", "high"])
    details = []
    if len(known):
        inside = known["measured"].between(known["low"], known["high"]).sum()
        details.append(f"{inside} of {len(known)} measured losses lie within their 80 % intervals.")
    spearman = result.scores.loc[result.scores["predictor"] == result.predictor, "spearman"]
    if spearman.notna().any():
        correlation = f"{spearman.iloc[0]:.2f}".replace("-", "−")
        details.append(
            f"Rank correlation of the whole ranking with the truth (Spearman): {correlation}."
        )
    return details


def findings(result: Result) -> list[tuple[str, str, list[Message]]]:
    """Code, title and messages of each check that found anything, in the order of the table."""
    messages: Any = result.findings.groupby(["code", "title"], sort=False)["message"]
    return [(code, title, [fold(text) for text in found]) for (code, title), found in messages]


# --- the rounds of a sweep with a policy ------------------------------------------------------
def rounds(result: Result) -> list[dict[str, Any]]:
    """Per round its largest D, and how many candidates were trained on it and then dropped."""
    out = result.decisions["dropped"] != ""
    by_round = result.decisions.assign(out=out).groupby("budget")["out"]
    return records(by_round.agg(racing="size", dropped="sum").reset_index())


def racers(result: Result) -> list[dict[str, Any]]:
    """Every candidate: those that stayed first, then by the round that dropped them, last first.

    ``chances`` are P(best) after each round, NaN when it was no longer in the race; ``dropped`` is
    the round's D, None where it stayed to the end.
    """
    chances = result.decisions.pivot(index="candidate", columns="budget", values="p_best")
    reasons = dict(zip(result.decisions["candidate"], result.decisions["dropped"], strict=True))
    lines = [
        {"candidate": name, "chances": row, "dropped": result.dropped.get(name),
         "reason": reasons[name]}
        for name, row in zip(chances.index, chances.to_numpy().tolist(), strict=True)
    ]  # fmt: skip

    def order(line: dict[str, Any]) -> tuple[float, list[float], str]:
        last_first = [-chance for chance in reversed(line["chances"]) if math.isfinite(chance)]
        return -(line["dropped"] or math.inf), last_first, line["candidate"]

    return sorted(lines, key=order)


# --- predictors compared, at the budget and at every smaller one ------------------------------
def predictors(result: Result) -> list[dict[str, Any]]:
    """First choice of each predictor: the default, then the others by their regret.

    ``scores`` are by name; ``confidence`` has the rows of ranking/comparison, with a verdict.
    """
    scores = {row["predictor"]: row for row in records(result.scores)}
    best = result.predictions.sort_values(["rank", "candidate"]).drop_duplicates("predictor")
    best = best.merge(result.scores[["predictor", "regret"]], how="left")
    best = best.assign(other=best["predictor"] != result.predictor)
    confidence: dict[str, dict[str, Any]] = {}
    for row in records(result.comparison):
        row["verdict"] = _verdict(row["score"], row["difference_low"], row["difference_high"])
        confidence.setdefault(row["predictor"], {})[row["score"]] = row
    lines = records(best.sort_values(["other", "regret", "predictor"]))
    for line in lines:
        line["scores"] = scores.get(line["predictor"], {})
        line["confidence"] = confidence.get(line["predictor"], {})
    return lines


def _verdict(score: str, low: float, high: float) -> str:
    """``better`` or ``worse`` than the default with 95 % confidence; empty when neither is sure."""
    if not (low > 0 or high < 0):
        return ""
    return "better" if (low > 0) == (SCORES[score][1] == "max") else "worse"


def best_scores(result: Result) -> dict[str, float]:
    """The best value of each score that has one; NaN without a truth."""
    return {
        column: float(result.scores[column].agg(best))
        for column, (_, best) in SCORES.items()
        if best
    }


def leads(score: float, best: float) -> bool:
    """True if ``score`` is the best at the decimals shown; equal numbers are marked alike."""
    return math.isfinite(score) and text.score(score) == text.score(best)


def mixtures(result: Result) -> dict[str, str]:
    """The parts of each mixture at the budget, in words, the default predictor first."""
    rows = result.weights[result.weights["budget"] == result.budget]
    found = {
        str(name): " + ".join(f"{text.percent(r['weight'])} {r['part']}" for r in records(parts))
        for name, parts in rows.groupby("predictor")
    }
    return dict(sorted(found.items(), key=lambda item: item[0] != result.predictor))


def skipped(result: Result) -> list[tuple[str, str, list[int]]]:
    """Predictor, reason, and at which budgets if not at all, in the order of the table."""
    lines = []
    groups: Any = result.skipped.groupby(["predictor", "reason"], sort=False)["budget"]
    for (name, reason), found in groups:
        budgets = sorted(found.tolist())
        lines.append((name, reason, budgets if set(result.budgets) - set(budgets) else []))
    return lines


@dataclass(frozen=True)
class ByBudget:
    """One score of every predictor at every budget."""

    heading: str
    values: pd.DataFrame  # predictors × (budgets, "mean"); NaN where a predictor was skipped
    best: Mapping[object, float]  # by column


def by_budget(result: Result) -> Sequence[ByBudget]:
    """A table per score, the default predictor first, the others by their mean Pearson.

    Empty with one budget only, or without a truth.
    """
    if len(result.budgets) < 2 or result.all_scores.empty:
        return []
    tables = {}
    for score in BY_BUDGET:
        values = result.all_scores.pivot(index="predictor", columns="budget", values=score)
        # a mean over fewer budgets would not be comparable
        tables[score] = values.assign(mean=values.mean(axis=1, skipna=False))
    mean = tables["pearson"]["mean"].drop(result.predictor)
    order = [result.predictor, *mean.sort_values(ascending=False, kind="stable").index]
    return [
        ByBudget(SCORES[score][0], values.loc[order], values.max().to_dict())
        for score, values in tables.items()
    ]
