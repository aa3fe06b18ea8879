"""The page and the figure of an ablation, in the style of the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from lensllm.config import grid
from lensllm.report import style, text
from lensllm.report.page import drawings, render_template
from lensllm.report.result import Array
from lensllm.selection.ablation import alone

_WORDS = "Ranks, agreement and transition sizes along the values of each setting"
_MOST_RANKS = 12  # that can all be written beside their lines
_VALUE_CHARACTERS = 12
_CORRELATIONS = (
    ("pearson", "PearCorr", style.Look(None, style.INK, "o"), "solid"),
    ("kendall", "order, Kendall", style.Look(None, style.MUTED, "s"), "solid"),
    ("truth_kendall", "true order", style.Look(None, style.MUTED, "^"), style.DASHES),
)
_MEDIANS = (
    ("transition", "D*, median", style.Look(None, style.INK, "o"), "solid"),
    ("ats_transition", "AtS, median", style.Look(None, style.MUTED, "D"), style.DASHES),
)


@dataclass(frozen=True)
class AblationResult:
    """The tables of one ablation, at least one of whose points has a ranking."""

    pipeline: str
    verdict: str
    points: pd.DataFrame  # ablation/points
    candidates: pd.DataFrame  # ablation/candidates
    keys: pd.DataFrame  # ablation/keys
    lacking: Sequence[tuple[int, str, str]]  # point, what it had to do without, reason
    config: Mapping[str, object]  # of the reference, resolved, without secrets

    @property
    def ranked(self) -> pd.Series[bool]:
        """Which points have a ranking."""
        return self.points["failed"] == ""

    @cached_property
    def candidate_names(self) -> list[str]:
        """Every candidate, in the order of the first point's ranking that has one."""
        return list(self.candidates["candidate"].unique())

    @cached_property
    def looks(self) -> dict[str, style.Look]:
        """Drawing styles: each point's choice and its true best candidate stand out."""
        choices = self.points["choice"][self.ranked].unique()
        measured = self.candidates.dropna(subset=["measured"])
        best = measured.sort_values("measured", kind="stable").drop_duplicates("point")
        return style.looks_of(
            self.candidate_names, [*choices, *best.sort_values("point")["candidate"]]
        )

    def of_candidate(self, name: str) -> pd.DataFrame:
        """The rows of one candidate, at most one per point."""
        return self._rows[name]

    @cached_property
    def _rows(self) -> dict[str, pd.DataFrame]:
        return {str(name): rows for name, rows in self.candidates.groupby("candidate")}


# --- the page ----------------------------------------------------------------------------------
def render(result: AblationResult) -> str:
    """The page as HTML; equal data give equal text."""
    ranked = result.candidates.dropna(subset=["rank"])
    ranks = ranked.set_index(["candidate", "point"])["rank"].map("{:.0f}".format)
    return render_template(
        "ablation.html.j2",
        result=result,
        figures={"settings": drawings("settings", figure, result, _WORDS)},
        looks=result.looks,
        ranks=ranks.to_dict(),
        config=result.config,
        loads=json.loads,
        shown=grid.shown,
    )


# --- the figure --------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Along:
    """The points that move one key alone, in the order of its values."""

    key: str
    names: list[str]  # V values, as they are written
    own: int  # place of the reference's among them
    places: list[int]  # V points

    @classmethod
    def of(cls, result: AblationResult, key: str) -> _Along:
        settings = [json.loads(text) for text in result.points["settings"]]
        places = alone(settings, key)
        values = [settings[place][key] for place in places]
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
            places = [place for _, place in sorted(zip(values, places, strict=True))]
        names = [text.shorten(grid.shown(settings[p][key]), _VALUE_CHARACTERS) for p in places]
        return cls(key, names, places.index(0), places)

    def column(self, table: pd.DataFrame, name: str) -> Array:
        """(V,) of a table with a row per point; NaN where there is none."""
        values: Array = table.set_index("point")[name].reindex(self.places).to_numpy(dtype=float)
        return values


def figure(result: AblationResult, layout: style.Layout = style.WIDE) -> Figure:
    """A column of three panels per key: every candidate's rank, agreement, transition sizes."""
    along = [_Along.of(result, key) for key in result.keys["key"]]
    rows = (("Rank", _rank_lines), ("Agreement", _agreement), ("Transition, D", _transition))
    tall = (min(5.2, 1.3 + 0.17 * len(result.candidate_names)), 2.0, 2.4)
    em = layout.font / 72
    down = -(-len(along) // layout.columns)
    across = -(-len(along) // down)
    height = sum(tall) + 2.4 * em
    left, between = 5.8 * em, 2.0 * em
    wide = (layout.width - left - layout.label_inches - between * (across - 1)) / across
    with style.style():
        drawing = Figure(figsize=(layout.width, height * down))
        for place, points in enumerate(along):
            column = place % across
            last = column == across - 1 or place == len(along) - 1
            top = (down - place // across) * height - 2.0 * em
            for (words, draw), inside in zip(rows, tall, strict=True):
                bottom = top - inside + 2.2 * em  # values below, title above
                x = left + column * (wide + between)
                axes = style.axes_at(drawing, x, bottom, wide, inside - 3.6 * em)
                labels = draw(axes, result, points)
                if draw is _rank_lines:
                    style.title(axes, points.key, layout, pad=8)
                axes.set_xlim(-0.4, len(points.names) - 0.6)
                axes.set_xticks(range(len(points.names)), points.names, parse_math=False)
                axes.axvspan(
                    points.own - 0.3, points.own + 0.3, color=style.SHADE, linewidth=0, zorder=0
                )
                style.bare(axes, layout, share=0.92)
                axes.tick_params(labelleft=column == 0)
                if column == 0:
                    middle = (bottom + inside / 2 - 1.8 * em) / (height * down)
                    drawing.text(0.9 * em / layout.width, middle, words, rotation=90, va="center",
                                 ha="center", fontsize=layout.font)  # fmt: skip
                if last:
                    style.direct_labels(axes, labels, layout)
                top -= inside
    return drawing


def _rank_lines(axes: Axes, result: AblationResult, points: _Along) -> list[style.Label]:
    """A line per candidate, the first at the top."""
    count, labels = len(result.candidate_names), []
    axes.set_ylim(count + 0.6, 0.4)
    every = 1 if count <= _MOST_RANKS else 10
    axes.yaxis.set_major_locator(FixedLocator([1, *range(every, count + 1, every)]))
    for name, look in reversed(result.looks.items()):
        ranks = points.column(result.of_candidate(name), "rank")
        axes.plot(ranks, **_line(look, 1.8), clip_on=False)
        if look is not style.CROWD and np.isfinite(ranks).any():
            end = _last(ranks)
            labels.append(style.Label(end, text.without_owner(name), look, f"{end:.0f}  "))
    return labels[::-1]


def _agreement(axes: Axes, result: AblationResult, points: _Along) -> list[style.Label]:
    """Correlations: of prediction with truth, and of the orders here with the reference's."""
    columns = [name for name, *_ in _CORRELATIONS]
    low = min(0.0, float(np.nanmin(result.points[columns].to_numpy(dtype=float), initial=0.0)))
    axes.set_ylim(low - 0.05, 1.05)
    return _summaries(axes, result, points, _CORRELATIONS, 1.4)


def _transition(axes: Axes, result: AblationResult, points: _Along) -> list[style.Label]:
    """D* of the candidates, and the medians of D* and of where AtS's line begins."""
    known = result.points[result.ranked]
    low, high = float(known["smallest"].min()), float(known["target"].max())
    axes.set(yscale="log", ylim=(low / 1.25, high * 1.25))
    shown = [low, float(known["budget"].iloc[0]), high]
    style.ticks(axes.yaxis, shown, [text.size(size) for size in shown])
    for name, look in reversed(result.looks.items()):
        sizes = np.clip(points.column(result.of_candidate(name), "transition"), low, high)
        axes.plot(sizes, color=look.colour, linewidth=0.7, alpha=0.75, zorder=2, clip_on=False)
    return _summaries(axes, result, points, _MEDIANS, 1.6)


def _summaries(
    axes: Axes, result: AblationResult, points: _Along, lines: Sequence[Any], width: float
) -> list[style.Label]:
    """Lines of columns of ablation/points, as far as they are known."""
    labels = []
    for column, name, look, dashes in lines:
        values = points.column(result.points, column)
        if np.isfinite(values).any():
            axes.plot(values, **_line(look, width), linestyle=dashes, clip_on=False)
            labels.append(style.Label(_last(values), name, look))
    return labels


def _line(look: style.Look, width: float) -> dict[str, Any]:
    if look is style.CROWD:
        return {"color": look.colour, "linewidth": 0.7, "zorder": 2}
    return {
        "color": look.colour, "linewidth": width, "zorder": 3, "marker": look.marker,
        "markersize": 4.5,
    }  # fmt: skip


def _last(values: Array) -> float:
    """The last finite value."""
    return float(values[np.isfinite(values)][-1])
