"""Comparison of rankings at the points of a grid of settings, each with the reference's.

A point is scored against its own measured losses, for the settings of fine-tuning move them too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lensllm.core.errors import label
from lensllm.selection import scores
from lensllm.selection.ranking import choice
from lensllm.selection.transitions import Transitions

_NAMED = 3  # other choices in a sentence


@dataclass(frozen=True)
class Outcome:
    """The ranking and the transitions at one point."""

    predictor: str
    smallest: int  # size trained on
    budget: int  # the largest
    target: int
    predictions: pd.DataFrame  # ranking/predictions of the predictor at that budget
    transition: Transitions  # of the rectified law
    ats: Transitions

    @property
    def rows(self) -> pd.DataFrame:
        """By candidate; a rank is NaN where there is no prediction."""
        rows = self.predictions.set_index("candidate")
        return rows.assign(rank=rows["rank"].where(rows["predicted"].notna()))

    @property
    def choice(self) -> str:
        return choice(self.predictions)


@dataclass(frozen=True)
class Point:
    """A point of the grid with its outcome, or why it has none."""

    settings: Mapping[str, Any]  # value of every key
    outcome: Outcome | None
    failed: str = ""


@dataclass(frozen=True)
class Ablation:
    """The tables of a compared grid."""

    points: pd.DataFrame  # schema ablation/points
    candidates: pd.DataFrame  # schema ablation/candidates
    keys: pd.DataFrame  # schema ablation/keys


def compare(points: Sequence[Point]) -> Ablation:
    """Compare the points; the first is the reference, and at least one has an outcome."""
    rows = pd.DataFrame([_point(place, p, points[0].outcome) for place, p in enumerate(points)])
    tables = [_candidates(place, p.outcome) for place, p in enumerate(points) if p.outcome]
    keys = pd.DataFrame([_key(key, points, rows) for key in points[0].settings])
    return Ablation(rows, pd.concat(tables, ignore_index=True), keys)


def verdict(points: pd.DataFrame) -> str:
    """Two or three sentences: whether the choice stays, and where the order moves most.

    ``points`` follow the schema ablation/points.
    """
    settings = points["settings"].map(json.loads)
    where = pd.Series([_moved(here, settings.iloc[0]) for here in settings], points.index)
    known = points.assign(where=where)[points["failed"] == ""]
    others = known[~known["reference"]]
    if len(known) == len(others):
        return "The pipeline failed with its own settings, so there is nothing to compare with."
    if others.empty:
        return "Every other point failed, so nothing is known of how far the ranking moves."
    failed = len(points) - len(known)
    lost = [f"{failed} more {'point' if failed == 1 else 'points'} failed."] if failed else []
    return " ".join([_choices(known), *_farthest(others), *_costliest(known), *lost])


def alone(points: Sequence[Mapping[str, Any]], key: str) -> list[int]:
    """The places in ``points`` of the reference, the first, and of those that move ``key`` alone.

    A point is its settings by key.
    """
    rest = {name: value for name, value in points[0].items() if name != key}
    return [i for i, settings in enumerate(points) if rest.items() <= settings.items()]


def _choices(known: pd.DataFrame) -> str:
    chosen = known.loc[known["reference"], "choice"].iloc[0]
    others = known.loc[known["choice"] != chosen, "choice"].value_counts()
    if others.empty:
        return f"{chosen} is the choice at all {len(known)} points."
    elsewhere = [f"{name} at {count}" for name, count in others.head(_NAMED).items()]
    if len(others) > _NAMED:
        elsewhere.append(f"{len(others) - _NAMED} others elsewhere")
    same = len(known) - others.sum()
    return f"{chosen} is the choice at {same} of {len(known)} points, {', '.join(elsewhere)}."


def _farthest(others: pd.DataFrame) -> list[str]:
    """The point whose order agrees least with the reference's, and how the truth moves there."""
    if others["kendall"].isna().all():
        return []
    row = others.sort_values("kendall", kind="stable").iloc[0]
    if row["kendall"] == 1:
        return ["The order of the candidates is the same everywhere."]
    text = (
        f"The order agrees least with the reference's at {row['where']} "
        f"(Kendall correlation {row['kendall']:.2f}"
    )
    if np.isfinite(row["truth_kendall"]):
        text += f"; of the measured orders {row['truth_kendall']:.2f}"
    return [f"{text})."]


def _costliest(known: pd.DataFrame) -> list[str]:
    if known["regret"].isna().all():
        return []
    row = known.sort_values("regret", ascending=False, kind="stable").iloc[0]
    if row["regret"] == 0:
        return ["Where the target was measured, the choice was always the best."]
    return [f"The largest regret of a choice is {row['regret']:.4f}, at {row['where']}."]


def _moved(settings: Mapping[str, Any], reference: Mapping[str, Any]) -> str:
    """The settings that are not the reference's, in words."""
    moved = {key: value for key, value in settings.items() if value != reference[key]}
    return label(moved) if moved else "the pipeline's own settings"


def _point(place: int, point: Point, reference: Outcome | None) -> dict[str, Any]:
    """A row of ablation/points; ``place`` 0 is the reference."""
    row: dict[str, Any] = {
        "point": place,
        "settings": json.dumps(point.settings, ensure_ascii=False),
        "reference": place == 0,
        "failed": point.failed,
        "predictor": "", "smallest": 0, "budget": 0, "target": 0, "choice": "",
        "pearson": np.nan, "rmse_log": np.nan, "regret": np.nan,
        "kendall": np.nan, "truth_kendall": np.nan,
        "transition": np.nan, "transition_seen": 0,
        "ats_transition": np.nan, "ats_seen": 0,
    }  # fmt: skip
    outcome = point.outcome
    if outcome is None:
        return row
    rows = outcome.rows
    predicted, truth = (rows[name].to_numpy(dtype=float) for name in ("predicted", "measured"))
    return row | {
        "predictor": outcome.predictor,
        "smallest": outcome.smallest,
        "budget": outcome.budget,
        "target": outcome.target,
        "choice": outcome.choice,
        "pearson": scores.pearson(predicted, truth),
        "rmse_log": scores.rmse_log(predicted, truth),
        "regret": float(rows["measured"][outcome.choice] - rows["measured"].min()),
        "kendall": _agreement(outcome, reference, "rank"),
        "truth_kendall": _agreement(outcome, reference, "measured"),
        "transition": outcome.transition.clipped.median(),
        "transition_seen": int((outcome.transition.side == "seen").sum()),
        "ats_transition": outcome.ats.clipped.median(),
        "ats_seen": int((outcome.ats.side == "seen").sum()),
    }


def _agreement(outcome: Outcome, reference: Outcome | None, column: str) -> float:
    """Kendall's correlation of a column with the reference's, over the candidates of both."""
    if reference is None:
        return np.nan
    mine, theirs = outcome.rows[column].align(reference.rows[column], join="inner")
    return scores.kendall(mine.to_numpy(dtype=float), theirs.to_numpy(dtype=float))


def _candidates(place: int, outcome: Outcome) -> pd.DataFrame:
    """Rows of ablation/candidates in the order of the ranking."""
    rows = outcome.rows[["rank", "predicted", "p_best", "measured"]]
    rows.insert(0, "point", place)
    for size, side, found in (
        ("transition", "transition_side", outcome.transition),
        ("ats_transition", "ats_side", outcome.ats),
    ):
        rows[size] = found.size.reindex(rows.index)
        rows[side] = found.side.reindex(rows.index, fill_value="unknown")
    rows = rows.sort_values("rank", kind="stable").reset_index()
    return rows[["point", "candidate", *rows.columns[2:]]]


def _key(key: str, points: Sequence[Point], rows: pd.DataFrame) -> dict[str, Any]:
    """A row of ablation/keys, from the points that move ``key`` alone."""
    places = [i for i in alone([p.settings for p in points], key) if points[i].outcome is not None]
    moved = [i for i in places if i > 0]
    others, values = rows.loc[moved], [points[i].settings[key] for i in moved]
    chosen = rows.loc[0, "choice"]
    row = {
        "key": key,
        "reference": json.dumps(points[0].settings[key], ensure_ascii=False),
        "values": json.dumps(values, ensure_ascii=False),
        "points": len(moved),
        "pearson_low": rows.loc[places, "pearson"].min(),
        "pearson_high": rows.loc[places, "pearson"].max(),
        "kendall_low": others["kendall"].min(),
        "truth_kendall_low": others["truth_kendall"].min(),
        "choice_changes": int((others["choice"] != chosen).sum()) if chosen else 0,
        "regret_high": others["regret"].max(),
    }
    reference = points[0].outcome
    for name in ("transition", "ats"):
        # least and most of each move from the reference in doublings, the median of the candidates
        moves = [
            [bound.median() for bound in getattr(reference, name).moves(there)]
            for there in [getattr(points[i].outcome, name) for i in moved if reference]
        ]
        known = [move for move in moves if np.isfinite(move[0])]
        low, high = np.max(known, axis=0).tolist() if known else (np.nan, np.nan)
        row |= {f"{name}_move_low": low, f"{name}_move_high": high}
    return row
