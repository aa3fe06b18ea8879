"""The main figure: what was measured, where it is predicted to go, and what proved true."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lensllm.laws.fit import evaluate
from lensllm.report import style, text
from lensllm.report.curve_axes import Scale, box, frame, height
from lensllm.report.data import ReportData
from lensllm.report.labels import Label, direct_labels
from lensllm.report.style import CROWD, INK, OTHERS, PAPER, WIDE, Layout, Look

_CHEVRON = [(-1.0, -0.5), (0.0, 0.5), (1.0, -0.5)]  # "off the scale"

_DASHES = (0, (4, 2.2))

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
        for name in reversed(looks):  # the best last, on top of the others
            _curve(axes, data, name, looks[name], scale, layout)
        ranked = data.ranking[data.ranking["candidate"].isin(named)]
        for place, (_, row) in zip(scale.columns(len(ranked)), ranked.iterrows(), strict=True):
            _prediction(axes, row, looks[row["candidate"]], place, layout)
        direct_labels(axes, _labels(axes, data, named, looks), layout)
        _key(figure, data, layout, crowded=len(named) < len(looks))
    return figure


def save_png(figure: Figure, path: Path) -> None:
    """Write ``figure`` at twice screen resolution; equal data give equal bytes."""
    style.png(figure, path)


def _curve(
    axes: Axes, data: ReportData, name: str, look: Look, scale: Scale, layout: Layout
) -> None:
    """One candidate's cells, and a line through them that is dashed where nothing was measured."""
    ink: Ink = {"color": look.colour, "zorder": 2 if look is CROWD else 3}
    curve = data.curve(name)
    paid = curve[(curve.index > 0) & (curve.index <= data.budget)]
    fit = data.fit(name)
    if fit is None:
        _joined(axes, data, name, paid, ink, scale)
    else:
        _law(axes, fit, ink, scale)
    if look is CROWD:
        return
    _seeds(axes, data, name, ink)
    marks: Ink = {"marker": look.marker, "markersize": layout.mark, "linestyle": "none", **ink}
    axes.plot(np.log2(paid.index), paid, **marks)
    later = curve[(curve.index > data.budget) & (curve.index < data.target)]
    axes.plot(np.log2(later.index), later, markerfacecolor=PAPER, markeredgewidth=1, **marks)
    if 0 in curve.index:
        _zero_shot(axes, float(curve.loc[0]), paid, marks, scale)


def _law(axes: Axes, fit: pd.Series, ink: Ink, scale: Scale) -> None:
    """The fitted law: solid up to the budget, dashed beyond."""
    known = np.linspace(scale.first, scale.budget, 80)
    ahead = np.linspace(scale.budget, scale.target, 80)
    axes.plot(known, evaluate(fit, 2.0**known), linewidth=_width(ink, 1.5), **ink)
    axes.plot(ahead, evaluate(fit, 2.0**ahead), linewidth=_width(ink, 1.5), linestyle=_DASHES,
              **ink)  # fmt: skip


def _joined(
    axes: Axes, data: ReportData, name: str, paid: pd.Series, ink: Ink, scale: Scale
) -> None:
    """The measured points, joined, and a dashed line from the last of them to the prediction.

    A predictor that is no law says where a curve ends and nothing of the way. A candidate that was
    dropped has no such line: nobody followed it to the end.
    """
    axes.plot(np.log2(paid.index), paid, linewidth=_width(ink, 1.3), **ink)
    rows = data.ranking
    predicted = rows.loc[rows["candidate"] == name, "predicted"]
    if paid.empty or predicted.empty or name in data.dropped:
        return
    axes.plot([math.log2(paid.index[-1]), scale.target], [paid.iloc[-1], predicted.iloc[0]],
              linewidth=_width(ink, 1.0), linestyle=_DASHES, **ink)  # fmt: skip


def _width(ink: Ink, width: float) -> float:
    return 0.7 if ink["color"] == OTHERS else width


def _seeds(axes: Axes, data: ReportData, name: str, ink: Ink) -> None:
    """Small dots for the single runs where a size was run with several seeds."""
    cells = data.cells[(data.cells["candidate"] == name) & (data.cells["size"] > 0)]
    repeated = cells[cells.duplicated("size", keep=False) & (cells["size"] < data.target)]
    axes.plot(np.log2(repeated["size"]), repeated[data.metric], marker=".", markersize=4,
              linestyle="none", alpha=0.5, markeredgewidth=0, **ink)  # fmt: skip


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
    ranks, predicted = (dict(zip(data.ranking["candidate"], data.ranking[column], strict=True))
                        for column in ("rank", "predicted"))  # fmt: skip
    labels = []
    for name in named:
        curve = data.curve(name)
        last = float(curve.iloc[-1]) if len(curve) else math.nan
        loss, rank = predicted.get(name, last), f"{ranks[name]}  " if name in ranks else ""
        if math.isfinite(loss) and loss > 0:
            height = float(np.clip((math.log(loss) - bottom) / (top - bottom), 0, 1))
            bold = name == data.choice
            labels.append(Label(height, text.without_owner(name), looks[name], rank, bold))
    return labels


def _key(figure: Figure, data: ReportData, layout: Layout, crowded: bool) -> None:
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
