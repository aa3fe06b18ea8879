"""The main figure: what was measured, where it is predicted to go, and what proved true."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lensllm.laws.fit import evaluate
from lensllm.report import style, text
from lensllm.report.curve_axes import Scale, box, frame, height
from lensllm.report.data import Array, ReportData
from lensllm.report.labels import Label, direct_labels
from lensllm.report.style import CROWD, INK, OTHERS, PAPER, WIDE, Layout, Look

_CHEVRON = [(-1.0, -0.5), (0.0, 0.5), (1.0, -0.5)]  # "off the scale"

_DASHES = (0, (4, 2.2))
_MOST_DOTS = 20  # runs at one size; where there are more, a line says where 80 % of them lie

Ink = dict[str, Any]  # keyword arguments of one line or mark


def curves(data: ReportData, layout: Layout = WIDE) -> Figure:
    """Learning curves of every candidate up to the budget, extrapolated to the target."""
    looks = style.looks(data)
    named = [name for name, look in looks.items() if look is not CROWD]
    scale = Scale.of(data, layout)
    with style.style():
        figure = Figure(figsize=(layout.width, height(layout)))
        axes = figure.add_axes(box(layout))
        frame(axes, data, scale, layout)
        _crowd(axes, data, [name for name in looks if name not in named], scale)
        for name in reversed(named):  # the best last, on top of the others
            _curve(axes, data, name, looks[name], scale, layout)
        ranked = data.ranking[data.ranking["candidate"].isin(named)]
        for place, (_, row) in zip(scale.columns(len(ranked)), ranked.iterrows(), strict=True):
            _prediction(axes, row, looks[row["candidate"]], place, layout)
        direct_labels(axes, _labels(axes, data, named, looks), layout)
        _key(figure, data, layout, named, crowded=len(named) < len(looks))
    return figure


def save_png(figure: Figure, path: Path) -> None:
    """Write ``figure`` at twice screen resolution; equal data give equal bytes."""
    style.png(figure, path)


def _crowd(axes: Axes, data: ReportData, names: Sequence[str], scale: Scale) -> None:
    """Thin grey lines of those that do not stand out, in two strokes: there may be thousands."""
    lines = [_line(data, name, scale) for name in names]
    dashed = [ahead for _, ahead in lines if ahead is not None]
    for strokes, dashes in (([known for known, _ in lines], "solid"), (dashed, _DASHES)):
        axes.add_collection(
            LineCollection(strokes, colors=OTHERS, linewidths=0.7, linestyles=dashes, zorder=2),
            autolim=False,
        )


def _curve(
    axes: Axes, data: ReportData, name: str, look: Look, scale: Scale, layout: Layout
) -> None:
    """One candidate's cells, and a line through them that is dashed where nothing was measured."""
    ink: Ink = {"color": look.colour, "zorder": 3}
    known, ahead = _line(data, name, scale)
    joined = data.fit(name) is None
    axes.plot(*known.T, linewidth=1.3 if joined else 1.5, **ink)
    if ahead is not None:
        axes.plot(*ahead.T, linewidth=1.0 if joined else 1.5, linestyle=_DASHES, **ink)
    _seeds(axes, *_repeats(data, name), ink)
    marks: Ink = {"marker": look.marker, "markersize": layout.mark, "linestyle": "none", **ink}
    curve, paid = data.curve(name), _paid(data, name)
    axes.plot(np.log2(paid.index), paid, **marks)
    later = curve[(curve.index > data.budget) & (curve.index < data.target)]
    axes.plot(np.log2(later.index), later, markerfacecolor=PAPER, markeredgewidth=1, **marks)
    if 0 in curve.index:
        _zero_shot(axes, float(curve.loc[0]), paid, marks, scale)


def _paid(data: ReportData, name: str) -> pd.Series:
    curve = data.curve(name)
    return curve[(curve.index > 0) & (curve.index <= data.budget)]


def _line(data: ReportData, name: str, scale: Scale) -> tuple[Array, Array | None]:
    """(n, 2) places and losses of a line up to the budget, and of one that leads on to the target.

    They are the drawn law's, or join what was measured and then the prediction: a predictor that is
    no law says where a curve ends and nothing of the way. A candidate that was dropped has no
    second line: nobody followed it to the end.
    """
    fit = data.fit(name)
    if fit is not None:
        known = np.linspace(scale.first, scale.budget, 80)
        ahead = np.linspace(scale.budget, scale.target, 80)
        return (
            np.column_stack([known, evaluate(fit, 2.0**known)]),
            np.column_stack([ahead, evaluate(fit, 2.0**ahead)]),
        )
    paid = _paid(data, name)
    points = np.column_stack([np.log2(paid.index.to_numpy(dtype=float)), paid])
    if paid.empty or name not in data.predicted or name in data.dropped:
        return points, None
    return points, np.array([points[-1], (scale.target, data.predicted[name])])


def _repeats(data: ReportData, name: str) -> tuple[pd.Series, pd.Series]:
    """The single runs by size, where a size was run with several seeds, and with very many."""
    runs = data.runs(name).dropna()
    runs = runs[(runs.index > 0) & (runs.index < data.target)]
    count = runs.groupby(level=0).transform("size")
    return runs[(count > 1) & (count <= _MOST_DOTS)], runs[count > _MOST_DOTS]


def _seeds(axes: Axes, several: pd.Series, many: pd.Series, ink: Ink) -> None:
    """A small dot for every run; a thin line over 80 % of them where they are very many."""
    axes.plot(np.log2(several.index), several, marker=".", markersize=4, linestyle="none",
              alpha=0.5, markeredgewidth=0, **ink)  # fmt: skip
    low, high = (many.groupby(level=0).quantile(share) for share in (0.1, 0.9))
    axes.vlines(np.log2(low.index), low, high, linewidth=1.5, alpha=0.5, **ink)


def _zero_shot(axes: Axes, loss: float, paid: pd.Series, marks: Ink, scale: Scale) -> None:
    """The pretrained model's loss in the slot left of the break; an arrow when off the scale."""
    top = axes.get_ylim()[1]
    if loss > top:
        axes.plot([scale.zero], [top], **{**marks, "marker": _CHEVRON, "clip_on": False},
                  markerfacecolor="none", markeredgewidth=1.6)  # fmt: skip
        return
    axes.plot([scale.zero], [loss], **marks)
    if not paid.empty:
        axes.plot([scale.zero, math.log2(paid.index[0])], [loss, paid.iloc[0]],
                  color=marks["color"], linewidth=0.9, linestyle=(0, (1, 2.5)))  # fmt: skip


def _prediction(axes: Axes, row: pd.Series, look: Look, place: float, layout: Layout) -> None:
    """Predicted loss with its 80 % interval, and a star where the truth is known."""
    wide = layout.mark / WIDE.mark
    axes.plot([place, place], [row["low"], row["high"]], color=look.colour, alpha=0.45,
              linewidth=4.5 * wide, solid_capstyle="butt", zorder=3)  # fmt: skip
    axes.plot([place], [row["predicted"]], marker=look.marker, color=look.colour, zorder=4,
              markersize=4.5 * wide, linestyle="none")  # fmt: skip
    if math.isfinite(row["measured"]):
        axes.plot([place], [row["measured"]], marker="*", markersize=11.5 * wide, zorder=3.5,
                  markerfacecolor=PAPER, markeredgecolor=look.colour)  # fmt: skip


def _labels(
    axes: Axes, data: ReportData, named: Sequence[str], looks: dict[str, Look]
) -> list[Label]:
    """Rank and name of each named candidate at the height of its prediction.

    A candidate without a prediction stands at the height where its curve stops.
    """
    bottom, top = np.log(axes.get_ylim())
    ranks = dict(zip(data.ranking["candidate"], data.ranking["rank"], strict=True))
    labels = []
    for name in named:
        curve = data.curve(name)
        last = float(curve.iloc[-1]) if len(curve) else math.nan
        loss, rank = data.predicted.get(name, last), f"{ranks[name]}  " if name in ranks else ""
        if math.isfinite(loss) and loss > 0:
            height = float(np.clip((math.log(loss) - bottom) / (top - bottom), 0, 1))
            bold = name == data.choice
            labels.append(Label(height, text.without_owner(name), looks[name], rank, bold))
    return labels


def _key(
    figure: Figure, data: ReportData, layout: Layout, named: Sequence[str], crowded: bool
) -> None:
    """What the marks mean, in one line under the axis; candidates are named beside their lines."""
    line: Ink = {"color": INK, "linewidth": 1.5}
    marks = [
        Line2D([], [], color=INK, marker="o", markersize=5, linestyle="none", label="measured"),
        Line2D([], [], linestyle=(0, (3, 1.5)), label="to the prediction", **line),
        Line2D([], [], color=INK, linewidth=5, alpha=0.45, solid_capstyle="butt",
               label="80 % interval"),
    ]  # fmt: skip
    if data.drawn_law:
        marks.insert(1, Line2D([], [], label=f"{data.drawn_law} law", **line))
        marks[2].set_label("extrapolated")
    if any(len(_repeats(data, name)[1]) for name in named):
        marks.append(Line2D([], [], color=INK, marker="|", markersize=9, markeredgewidth=1.5,
                            alpha=0.5, linestyle="none", label="80 % of runs"))  # fmt: skip
    hollow: Ink = {"color": INK, "linestyle": "none", "markerfacecolor": PAPER}
    beyond = data.cells["size"].between(data.budget, data.target, inclusive="neither")
    if beyond.any():
        marks.append(Line2D([], [], marker="o", markersize=5, label="held back", **hollow))
    if data.truth:
        marks.append(Line2D([], [], marker="*", markersize=10, label="truth", **hollow))
    if crowded:
        marks.append(Line2D([], [], color=OTHERS, linewidth=1, label="the others"))
    figure.legend(
        handles=marks, loc="lower left", bbox_to_anchor=(box(layout)[0], 0), frameon=False,
        ncols=len(marks) if layout is WIDE else 3, fontsize=0.95 * layout.font,
        handlelength=2, columnspacing=1.4, handletextpad=0.5, borderaxespad=0.3,
    )  # fmt: skip
