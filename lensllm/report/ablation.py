"""The page of an ablation: self-contained, in the style of the report."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import yaml

from lensllm.config import grid
from lensllm.report import style, text
from lensllm.report.ablation_data import AblationData
from lensllm.report.ablation_figure import figure
from lensllm.report.page import inline, template
from lensllm.report.tables import records

__all__ = ["AblationData", "figure", "render"]

_WORDS = "Ranks, agreement and transition sizes along the values of each setting"


def render(data: AblationData) -> str:
    """The page as HTML; equal data give equal text."""
    return template("ablation.html.j2").render(
        data=data,
        figures={
            "settings": (
                inline(figure(data), "settings-wide", _WORDS),
                inline(figure(data, style.NARROW), "settings-narrow", _WORDS),
            )
        },
        looks=data.looks,
        keys=_keys(data),
        points=records(data.points),
        values=_values,
        ranks=_ranks(data),
        measured=bool(data.points["pearson"].notna().any()),
        config=yaml.safe_dump(dict(data.config), sort_keys=False, allow_unicode=True),
    )


@dataclass(frozen=True)
class Key:
    """A row of ablation/keys in words."""

    key: str
    own: str
    others: str
    kendall: float
    truth_kendall: float
    pearson: str
    changes: str
    regret: float
    transition: str
    ats: str


def _keys(data: AblationData) -> list[Key]:
    return [
        Key(
            key=row["key"],
            own=grid.shown(json.loads(row["reference"])),
            others=", ".join(map(grid.shown, json.loads(row["values"]))) or text.MISSING,
            kendall=row["kendall_low"],
            truth_kendall=row["truth_kendall_low"],
            pearson=text.interval(row["pearson_low"], row["pearson_high"]) or text.MISSING,
            changes=f"{row['choice_changes']} of {row['points']}",
            regret=row["regret_high"],
            transition=text.moved(row["transition_move_low"], row["transition_move_high"]),
            ats=text.moved(row["ats_move_low"], row["ats_move_high"]),
        )
        for row in records(data.keys)
    ]


def _values(point: dict[str, Any]) -> list[str]:
    """The settings of a row of ablation/points, key by key."""
    return [grid.shown(value) for value in json.loads(point["settings"]).values()]


def _ranks(data: AblationData) -> list[tuple[str, list[str]]]:
    """Every candidate's rank at every point that has a ranking."""
    ranked = list(data.points["point"][data.ranked])
    ranks = data.candidates.set_index(["candidate", "point"])["rank"]
    return [
        (name, [_rank(float(ranks.get((name, point), math.nan))) for point in ranked])
        for name in data.candidate_names
    ]


def _rank(rank: float) -> str:
    return text.MISSING if math.isnan(rank) else f"{rank:.0f}"
