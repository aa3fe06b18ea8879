"""The rows and sentences of the page's answer: ranking, truth, checks, and the sweep's rounds.

They are computed here so that the templates only lay them out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lensllm.diagnostics.checks.check import Message, fold
from lensllm.report import style, text
from lensllm.report.result import Result


@dataclass(frozen=True)
class Bar:
    """An interval on a scale from 0 to 100, and the marks on it; None where there is nothing."""

    low: float | None
    high: float | None
    predicted: float | None
    measured: float | None


@dataclass(frozen=True)
class Ranked:
    """One line of the ranking."""

    rank: int
    candidate: str
    colour: int | None
    parameters: float
    predicted: float
    low: float
    high: float
    p_best: float
    expected_regret: float
    measured: float
    measured_rank: int
    chosen: bool
    bar: Bar

    @property
    def relative_error(self) -> float:
        """Predicted minus measured loss, over measured."""
        return (self.predicted - self.measured) / self.measured


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


def ranking(result: Result) -> list[Ranked]:
    """The default predictor's ranking, best first."""
    low, high = scale(result)
    looks = style.looks(result)
    sizes = result.parameters
    chosen = result.choice

    def place(value: float) -> float | None:
        if not math.isfinite(value):
            return None
        return round(100 * float(np.clip((value - low) / max(high - low, 1e-12), 0, 1)), 2)

    return [
        Ranked(
            rank=int(row["rank"]),
            candidate=row["candidate"],
            colour=looks[row["candidate"]].index,
            parameters=sizes.get(row["candidate"], math.nan),
            predicted=row["predicted"],
            low=row["low"],
            high=row["high"],
            p_best=row["p_best"],
            expected_regret=row["expected_regret"],
            measured=row["measured"],
            measured_rank=int(row["measured_rank"]),
            chosen=row["candidate"] == chosen,
            bar=Bar(*(place(row[key]) for key in ("low", "high", "predicted", "measured"))),
        )
        for _, row in result.ranking.iterrows()
    ]


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as mappings from column to value."""
    return [{str(column): cell for column, cell in row.items()} for row in frame.to_dict("records")]


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


# --- was it right? ----------------------------------------------------------------------------
@dataclass(frozen=True)
class Hindsight:
    """Whether the choice stood the test of the truth."""

    outcome: str  # right | wrong | open
    answer: str
    details: tuple[str, ...]


def was_it_right(result: Result) -> Hindsight:
    """Compare the first choice with the best candidate measured at the target."""
    rows = result.ranking
    known = rows.dropna(subset=["measured"])
    if known.empty:
        return Hindsight("open", "Not known.", (
            f"No candidate was fine-tuned on the target of {result.target:,} examples, "
            "so nothing here can be checked against the truth.",
        ))  # fmt: skip
    chosen = rows[rows["candidate"] == result.choice].iloc[0]
    best = known.sort_values("measured", kind="stable").iloc[0]
    details = (*_lowest(rows.iloc[0], chosen), *_details(result, known))
    if not math.isfinite(chosen["measured"]):
        return Hindsight("open", "Not known.", (
            f"{chosen['candidate']} was chosen but not measured at {result.target:,} examples; "
            f"of those measured, {best['candidate']} is best with "
            f"{text.loss(best['measured'])} {result.unit}.",
            *details,
        ))  # fmt: skip
    regret = float(chosen["measured"] - best["measured"])
    if regret <= 0:
        return Hindsight("right", "Yes.", (_right_choice(result, chosen, known), *details))
    return Hindsight("wrong", "No.", (
        f"{chosen['candidate']} was chosen and reaches {text.loss(chosen['measured'])} "
        f"{result.unit} at {result.target:,} examples; {best['candidate']} reaches "
        f"{text.loss(best['measured'])}.",
        f"That choice costs {text.loss(regret)} {result.unit} "
        f"({100 * regret / best['measured']:.1f} % of the best loss).",
        *details,
    ))  # fmt: skip


def _right_choice(result: Result, chosen: pd.Series, known: pd.DataFrame) -> str:
    sentence = (
        f"{chosen['candidate']}, chosen from at most {result.budget:,} examples, is the best of "
        f"the {len(known)} candidates measured at {result.target:,}: "
        f"{text.loss(chosen['measured'])} {result.unit}"
    )
    others = known.loc[known["candidate"] != chosen["candidate"], "measured"]
    return f"{sentence}, the next {text.loss(others.min())}." if len(others) else f"{sentence}."


def _lowest(first: pd.Series, chosen: pd.Series) -> tuple[str, ...]:
    """What became of the lowest prediction, where it was not chosen."""
    if first["candidate"] == chosen["candidate"] or not math.isfinite(first["measured"]):
        return ()
    return (
        f"{first['candidate']}, predicted lower but less surely, "
        f"reaches {text.loss(first['measured'])}.",
    )


def _details(result: Result, known: pd.DataFrame) -> tuple[str, ...]:
    ranged = known.dropna(subset=["low", "high"])
    inside = int(ranged["measured"].between(ranged["low"], ranged["high"]).sum())
    details = []
    if len(ranged):
        details.append(
            f"{inside} of {len(ranged)} measured losses lie within their 80 % intervals."
        )
    scores = result.scores[result.scores["predictor"] == result.predictor]
    if len(scores) and math.isfinite(scores.iloc[0]["spearman"]):
        details.append(
            "Rank correlation of the whole ranking with the truth (Spearman): "
            f"{scores.iloc[0]['spearman']:.2f}.".replace("-", "−")
        )
    return tuple(details)


# --- checks -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Finding:
    """What one check found."""

    code: str
    title: str
    messages: Sequence[Message]


def findings(result: Result) -> list[Finding]:
    """One per check that found anything, in the order of the table."""
    found: dict[tuple[str, str], list[Message]] = {}
    for row in records(result.findings):
        found.setdefault((row["code"], row["title"]), []).append(fold(row["message"]))
    return [Finding(code, title, messages) for (code, title), messages in found.items()]


def other_checks(result: Result) -> list[dict[str, Any]]:
    """The checks that found nothing: passed, or not applicable, and why."""
    return records(result.outcomes[result.outcomes["outcome"] != "issue"])


# --- the rounds of a sweep with a policy ------------------------------------------------------
@dataclass(frozen=True)
class Round:
    """What was decided from all cells up to one size."""

    budget: int  # largest D of the round
    racing: int  # candidates that were trained on it
    dropped: int


@dataclass(frozen=True)
class Racer:
    """One candidate through the rounds."""

    candidate: str
    chances: tuple[float, ...]  # P(best) after each round; NaN when it was no longer in the race
    dropped: int | None  # the round's D; None: it stayed to the end
    reason: str


def rounds(result: Result) -> list[Round]:
    """One line per round, in their order."""
    return [
        Round(int(str(budget)), len(rows), int((rows["dropped"] != "").sum()))
        for budget, rows in result.decisions.groupby("budget")
    ]


def racers(result: Result) -> list[Racer]:
    """Every candidate: those that stayed first, then by the round that dropped them, last first."""
    chances = result.decisions.pivot(index="candidate", columns="budget", values="p_best")
    out = result.decisions[result.decisions["dropped"] != ""]
    reasons = dict(zip(out["candidate"], out["dropped"], strict=True))
    lines = [
        Racer(
            str(name), tuple(map(float, row)), result.dropped.get(str(name)), reasons.get(name, "")
        )
        for name, row in zip(chances.index, chances.to_numpy(), strict=True)
    ]

    def order(line: Racer) -> tuple[float, list[float], str]:
        last_first = [-chance for chance in reversed(line.chances) if math.isfinite(chance)]
        return -(line.dropped or math.inf), last_first, line.candidate

    return sorted(lines, key=order)


def stop(result: Result) -> str:
    """Why no candidate got a larger subset; empty when the sweep ended with its largest."""
    return "" if result.decisions.empty else str(result.decisions["stop"].iloc[-1])
