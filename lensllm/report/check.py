"""Was it right? The choice against the truth, in sentences."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from lensllm.report import text
from lensllm.report.data import ReportData


@dataclass(frozen=True)
class Check:
    """Whether the choice stood the test of the truth."""

    outcome: str  # right | wrong | open
    answer: str
    details: tuple[str, ...]


def was_it_right(data: ReportData) -> Check:
    """Compare the first choice with the best candidate measured at the target."""
    rows = data.ranking
    known = rows.dropna(subset=["measured"])
    if known.empty:
        return Check("open", "Not known.", (
            f"No candidate was fine-tuned on the target of {data.target:,} examples, "
            "so nothing here can be checked against the truth.",
        ))  # fmt: skip
    chosen = rows[rows["candidate"] == data.choice].iloc[0]
    best = known.sort_values("measured", kind="stable").iloc[0]
    details = (*_lowest(rows.iloc[0], chosen), *_details(data, known))
    if not math.isfinite(chosen["measured"]):
        return Check("open", "Not known.", (
            f"{chosen['candidate']} was chosen but not measured at {data.target:,} examples; "
            f"of those measured, {best['candidate']} is best with "
            f"{text.loss(best['measured'])} {data.unit}.",
            *details,
        ))  # fmt: skip
    regret = float(chosen["measured"] - best["measured"])
    if regret <= 0:
        return Check("right", "Yes.", (_right(data, chosen, known), *details))
    return Check("wrong", "No.", (
        f"{chosen['candidate']} was chosen and reaches {text.loss(chosen['measured'])} {data.unit} "
        f"at {data.target:,} examples; {best['candidate']} reaches {text.loss(best['measured'])}.",
        f"That choice costs {text.loss(regret)} {data.unit} "
        f"({100 * regret / best['measured']:.1f} % of the best loss).",
        *details,
    ))  # fmt: skip


def _right(data: ReportData, chosen: pd.Series, known: pd.DataFrame) -> str:
    sentence = (
        f"{chosen['candidate']}, chosen from at most {data.budget:,} examples, is the best of the "
        f"{len(known)} candidates measured at {data.target:,}: "
        f"{text.loss(chosen['measured'])} {data.unit}"
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


def _details(data: ReportData, known: pd.DataFrame) -> tuple[str, ...]:
    ranged = known.dropna(subset=["low", "high"])
    inside = int(ranged["measured"].between(ranged["low"], ranged["high"]).sum())
    details = []
    if len(ranged):
        details.append(
            f"{inside} of {len(ranged)} measured losses lie within their 80 % intervals."
        )
    scores = data.scores[data.scores["predictor"] == data.default_predictor]
    if len(scores) and math.isfinite(scores.iloc[0]["spearman"]):
        details.append(
            "Rank correlation of the whole ranking with the truth (Spearman): "
            f"{scores.iloc[0]['spearman']:.2f}.".replace("-", "−")
        )
    return tuple(details)
