"""How far a ranking moves when settings move: the points of a grid, each beside the reference.

With the settings of fine-tuning the truth moves too. So a point is scored against its own measured
losses, and how far these reorder the candidates is told apart from how far the prediction does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lensllm.config import grid
from lensllm.selection import scores
from lensllm.selection.ranking import choice
from lensllm.selection.transitions import Transitions
from lensllm.store.schemas import schema

_NAMED = 3  # other choices in a sentence


@dataclass(frozen=True)
class Said:
    """What the pipeline said at one point."""

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
    """A point of the grid: what was said there, or why nothing was."""

    settings: Mapping[str, Any]  # value of every key
    said: Said | None
    failed: str = ""


@dataclass(frozen=True)
class Ablation:
    """All points together."""

    points: pd.DataFrame  # schema ablation/points
    candidates: pd.DataFrame  # schema ablation/candidates
    keys: pd.DataFrame  # schema ablation/keys


def compare(points: Sequence[Point]) -> Ablation:
    """The points, of which the first is the reference and at least one has something to say."""
    rows = [_point(place, point, points[0]) for place, point in enumerate(points)]
    tables = [_candidates(place, p.said) for place, p in enumerate(points) if p.said is not None]
    keys = [_key(key, points, pd.DataFrame(rows)) for key in points[0].settings]
    return Ablation(
        pd.DataFrame(rows)[schema("ablation/points").names],
        pd.concat(tables, ignore_index=True),
        pd.DataFrame(keys)[schema("ablation/keys").names],
    )


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
    """The places in ``points``, settings by key, where no key but ``key`` leaves the first's value:
    the reference and those that move ``key`` alone."""
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
    """Where the order agrees least with the reference's, and whether the truth moves as well."""
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
    return grid.label(moved) if moved else "the pipeline's own settings"


def _point(place: int, point: Point, reference: Point) -> dict[str, Any]:
    """A row of ablation/points; ``place`` 0 is the reference."""
    row: dict[str, Any] = {
        "point": place,
        "settings": json.dumps(point.settings, ensure_ascii=False),
        "reference": place == 0,
        "failed": point.failed,
        "predictor": "",
        "smallest": 0,
        "budget": 0,
        "target": 0,
        "choice": "",
        "transition_seen": 0,
        "ats_seen": 0,
    }
    said = point.said
    if said is None:
        lacking = set(schema("ablation/points").names) - row.keys()
        return row | dict.fromkeys(lacking, np.nan)
    rows = said.rows
    predicted, truth = (rows[name].to_numpy(dtype=float) for name in ("predicted", "measured"))
    own, against = said.transition, reference.said
    return row | {
        "predictor": said.predictor,
        "smallest": said.smallest,
        "budget": said.budget,
        "target": said.target,
        "choice": said.choice,
        "pearson": scores.pearson(predicted, truth),
        "rmse_log": scores.rmse_log(predicted, truth),
        "regret": float(rows["measured"][said.choice] - rows["measured"].min()),
        "kendall": _agreement(said, against, "rank"),
        "truth_kendall": _agreement(said, against, "measured"),
        "transition": own.clipped.median(),
        "transition_seen": int((own.side == "seen").sum()),
        "ats_transition": said.ats.clipped.median(),
        "ats_seen": int((said.ats.side == "seen").sum()),
    }


def _agreement(said: Said, reference: Said | None, column: str) -> float:
    """Kendall's correlation of a column with the reference's, over the candidates of both."""
    if reference is None:
        return np.nan
    mine, theirs = said.rows[column].align(reference.rows[column], join="inner")
    return scores.kendall(mine.to_numpy(dtype=float), theirs.to_numpy(dtype=float))


def _candidates(place: int, said: Said) -> pd.DataFrame:
    """Rows of ablation/candidates in the order of the ranking."""
    rows = said.rows
    order = rows.index
    table = pd.DataFrame(
        {
            "point": place,
            "candidate": order,
            "rank": rows["rank"],
            "predicted": rows["predicted"],
            "p_best": rows["p_best"],
            "measured": rows["measured"],
            "transition": said.transition.size.reindex(order),
            "transition_side": said.transition.side.reindex(order, fill_value="unknown"),
            "ats_transition": said.ats.size.reindex(order),
            "ats_side": said.ats.side.reindex(order, fill_value="unknown"),
        }
    )
    return table.sort_values("rank", kind="stable").reset_index(drop=True)


def _key(key: str, points: Sequence[Point], rows: pd.DataFrame) -> dict[str, Any]:
    """A row of ablation/keys, from the points that move ``key`` alone."""
    places = [i for i in alone([p.settings for p in points], key) if points[i].said is not None]
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
    reference, said = points[0].said, [points[i].said for i in moved]
    for name in ("transition", "ats"):
        low, high = _largest_move(reference, said, name)
        row |= {f"{name}_move_low": low, f"{name}_move_high": high}
    return row


def _largest_move(
    reference: Said | None, moved: Sequence[Said | None], name: str
) -> tuple[float, float]:
    """Least and most of the largest move from the reference, in doublings, the median over the
    candidates; NaN where nothing is known."""
    moves = [
        [bound.median() for bound in getattr(reference, name).moves(getattr(said, name))]
        for said in moved
        if reference is not None and said is not None
    ]
    known = [move for move in moves if np.isfinite(move[0])]
    if not known:
        return np.nan, np.nan
    low, high = np.max(known, axis=0)
    return float(low), float(high)
