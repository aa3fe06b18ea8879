"""The main figure: what was measured, where the laws say it goes, and what proved true."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

from lensllm.laws.fit import evaluate
from lensllm.report import style, text
from lensllm.report.data import ReportData
from lensllm.report.labels import Label, direct_labels
from lensllm.report.style import CROWD, INK, MUTED, OTHERS, PAPER, SHADE, WIDE, Layout, Look

# Intervals and zero-shot losses outside the curves may add half of the curves' height on either
# side (on the logarithmic scale); what is farther out is cut off, or the curves would be flattened.
_REACH = 0.5
_LEAST_REACH = 1.25  # a factor in loss, for curves that hardly fall
_CHEVRON = [(-1.0, -0.5), (0.0, 0.5), (1.0, -0.5)]  # "off the scale"

Ink = dict[str, Any]  # keyword arguments of one line or mark


@dataclass(frozen=True)
class _Scale:
    """Places on the horizontal axis, in log2 of the size D."""

    zero: float  # the slot for D = 0, left of a break in the axis
    first: float  # the smallest D measured
    budget: float
    target: float
    end: float  # right of the target stand the predictions side by side

    @classmethod
    def of(cls, data: ReportData, layout: Layout) -> _Scale:
        """The axis that holds every cell of ``data`` and its target."""
        sizes = data.cells.loc[data.cells["size"] > 0, "size"]
        first = math.log2(min([*sizes, data.budget, data.target]))
        target = math.log2(data.target)
        span = max(target - first, 1.0)
        return cls(
            zero=first - 0.13 * span,
            first=first,
            budget=math.log2(data.budget),
            target=target,
            end=target + (0.2 if layout is WIDE else 0.32) * span,
        )

    def columns(self, count: int) -> list[float]:
        """Where the predictions of ``count`` candidates stand, side by side after the target."""
        return [float(x) for x in np.linspace(self.target, self.end, count + 2)[1:-1]]


def curves(data: ReportData, layout: Layout = WIDE) -> Figure:
    """Learning curves of every candidate up to the budget, extrapolated to the target."""
    looks = style.looks(data)
    named = [name for name, look in looks.items() if look is not CROWD]
    scale = _Scale.of(data, layout)
    with style.style():
        figure = Figure(figsize=(layout.width, _height(layout)))
        axes = figure.add_axes(_box(layout))
        _axis(axes, data, scale, layout)
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


def _height(layout: Layout) -> float:
    return 5.9 if layout is WIDE else 4.8


def _box(layout: Layout) -> tuple[float, float, float, float]:
    """Left, bottom, width, height of the axes as shares of the figure."""
    em = layout.font / 72
    left, bottom, top = 4.2 * em, (6.4 if layout is WIDE else 9.2) * em, 4.4 * em
    wide, tall = layout.width, _height(layout)
    return (
        left / wide,
        bottom / tall,
        (wide - left - layout.label_inches) / wide,
        (tall - bottom - top) / tall,
    )


def _axis(axes: Axes, data: ReportData, scale: _Scale, layout: Layout) -> None:
    """Scales, ticks, the break before D = 0, and the lines at budget and target."""
    axes.set_yscale("log")
    low, high = _loss_range(data)
    axes.set_ylim(low, high)
    ticks = [tick for tick in MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
             if low <= tick <= high]  # fmt: skip
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_major_formatter(FixedFormatter([f"{tick:g}" for tick in ticks]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.spines["left"].set_visible(False)

    has_zero = bool((data.cells["size"] == 0).any())
    margin = 0.035 * (scale.end - scale.first)
    axes.set_xlim((scale.zero if has_zero else scale.first) - margin, scale.end)
    shown = _size_ticks(data, scale, layout)
    places = [math.log2(size) for size in shown]
    names = [text.size(size) for size in shown]
    if has_zero:
        places, names = [scale.zero, *places], ["0", *names]
        _break(axes, (scale.zero + scale.first) / 2)
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_major_formatter(FixedFormatter(names))
    axes.grid(axis="x", visible=False)
    axes.tick_params(labelsize=layout.font, pad=3)

    axes.axvspan(scale.budget, scale.target, color=SHADE, linewidth=0, zorder=0)
    axes.axvline(scale.budget, color=MUTED, linewidth=0.9, zorder=1)
    axes.axvline(scale.target, color=MUTED, linewidth=0.9, zorder=1)
    _over(axes, scale.target, "at the target", layout, "left")
    axes.spines["bottom"].set_bounds(axes.get_xlim()[0], scale.target)
    if scale.budget < scale.target:
        _over(axes, scale.budget, "budget", layout, "right")
    axes.text(
        0, 1 + 2.3 * layout.font / 72 / _tall(layout), f"Test loss, {data.unit} (lower is better)",
        transform=axes.transAxes, fontsize=layout.font, weight="bold", ha="left", va="bottom",
    )  # fmt: skip
    axes.set_xlabel("Training examples, D", fontsize=layout.font, labelpad=4)


def _tall(layout: Layout) -> float:
    return _height(layout) * _box(layout)[3]


def _over(axes: Axes, place: float, word: str, layout: Layout, side: str) -> None:
    axes.annotate(
        word, (place, 1.0), xycoords=axes.get_xaxis_transform(), textcoords="offset points",
        xytext=(-3 if side == "right" else 3, 2), ha=side, va="bottom", color=MUTED,
        fontsize=layout.font,
    )  # fmt: skip


def _break(axes: Axes, place: float) -> None:
    """Two strokes across the axis: D = 0 has no place on a logarithmic scale."""
    strokes: Ink = {"marker": [(-0.4, -1), (0.4, 1)], "markersize": 7, "linestyle": "none"}
    width = 0.012 * (axes.get_xlim()[1] - axes.get_xlim()[0])
    ground = axes.get_xaxis_transform()
    axes.plot([place - width / 2, place + width / 2], [0, 0], color=PAPER, linewidth=4,
              transform=ground, clip_on=False, zorder=5, solid_capstyle="butt")  # fmt: skip
    for x in (place - width / 2, place + width / 2):
        axes.plot([x], [0], color=MUTED, transform=ground, clip_on=False, zorder=6, **strokes)


def _size_ticks(data: ReportData, scale: _Scale, layout: Layout) -> list[int]:
    """Measured sizes, thinned so that their names do not touch; budget and target always stay."""
    sizes = {int(size) for size in data.cells["size"] if 0 < size < data.target}
    least = (scale.end - scale.zero) * 4.4 * layout.font / 72 / (layout.width * _box(layout)[2])
    kept: list[int] = []
    for size in [data.target, data.budget, *sorted(sizes, reverse=True)]:
        if all(abs(math.log2(size / other)) >= least for other in kept):
            kept.append(size)
    return sorted(kept)


def _loss_range(data: ReportData) -> tuple[float, float]:
    """Limits of the loss axis: the curves, and intervals and zero-shot losses not too far out."""
    trained = data.cells.loc[data.cells["size"] > 0, data.metric]
    core = _positive(trained, data.ranking["predicted"], data.ranking["measured"])
    zero = data.cells.loc[data.cells["size"] == 0, data.metric]
    outer = _positive(core, zero, data.ranking["low"], data.ranking["high"])
    low, high = min(core, default=1.0), max(core, default=1.0)
    reach = max(_LEAST_REACH, (high / low) ** _REACH)
    low = max(min(outer, default=low), low / reach)
    high = min(max(outer, default=high), high * reach)
    pad = max((high / low) ** 0.04, 1.01)
    return low / pad, high * pad


def _positive(*columns: pd.Series | list[float]) -> list[float]:
    values = np.concatenate([np.asarray(column, dtype=float) for column in columns])
    return [float(value) for value in values[np.isfinite(values) & (values > 0)]]


def _curve(
    axes: Axes, data: ReportData, name: str, look: Look, scale: _Scale, layout: Layout
) -> None:
    """One candidate's cells and law: solid up to the budget, dashed beyond."""
    ink: Ink = {"color": look.colour, "zorder": 2 if look is CROWD else 3}
    thin = look is CROWD
    curve = data.curve(name)
    paid = curve[(curve.index > 0) & (curve.index <= data.budget)]
    fit = data.fit(name)
    if fit is not None:
        known = np.linspace(scale.first, scale.budget, 80)
        ahead = np.linspace(scale.budget, scale.target, 80)
        axes.plot(known, evaluate(fit, 2.0**known), linewidth=0.7 if thin else 1.5, **ink)
        axes.plot(ahead, evaluate(fit, 2.0**ahead), linewidth=0.7 if thin else 1.5,
                  linestyle=(0, (4, 2.2)), **ink)  # fmt: skip
    else:
        axes.plot(np.log2(paid.index), paid, linewidth=0.7 if thin else 1.2, alpha=0.7, **ink)
    if thin:
        return
    _seeds(axes, data, name, ink)
    marks: Ink = {"marker": look.marker, "markersize": layout.mark, "linestyle": "none", **ink}
    axes.plot(np.log2(paid.index), paid, **marks)
    later = curve[(curve.index > data.budget) & (curve.index < data.target)]
    axes.plot(np.log2(later.index), later, markerfacecolor=PAPER, markeredgewidth=1, **marks)
    if 0 in curve.index:
        _zero_shot(axes, float(curve.loc[0]), paid, marks, scale)


def _seeds(axes: Axes, data: ReportData, name: str, ink: Ink) -> None:
    """Small dots for the single runs where a size was run with several seeds."""
    cells = data.cells[(data.cells["candidate"] == name) & (data.cells["size"] > 0)]
    repeated = cells[cells.duplicated("size", keep=False) & (cells["size"] < data.target)]
    axes.plot(np.log2(repeated["size"]), repeated[data.metric], marker=".", markersize=4,
              linestyle="none", alpha=0.5, markeredgewidth=0, **ink)  # fmt: skip


def _zero_shot(axes: Axes, loss: float, paid: pd.Series, marks: Ink, scale: _Scale) -> None:
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
        axes.plot([place], [row["measured"]], marker="*", markersize=13 * wide, zorder=3.5,
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
            labels.append(Label(height, text.without_owner(name), looks[name], rank))
    return labels


def _key(figure: Figure, data: ReportData, layout: Layout, crowded: bool) -> None:
    """What the marks mean, in one line under the axis; candidates are named beside their lines."""
    law: Ink = {"color": INK, "linewidth": 1.5}
    marks = [
        Line2D([], [], color=INK, marker="o", markersize=5, linestyle="none", label="measured"),
        Line2D([], [], label=f"{data.drawn_law} law" if data.drawn_law else "no law", **law),
        Line2D([], [], linestyle=(0, (3, 1.5)), label="extrapolated", **law),
        Line2D([], [], color=INK, linewidth=5, alpha=0.45, solid_capstyle="butt",
               label="80 % interval"),
    ]  # fmt: skip
    hollow: Ink = {"color": INK, "linestyle": "none", "markerfacecolor": PAPER}
    beyond = data.cells["size"].between(data.budget, data.target, inclusive="neither")
    if beyond.any():
        marks.append(Line2D([], [], marker="o", markersize=5, label="held back", **hollow))
    if data.truth:
        marks.append(Line2D([], [], marker="*", markersize=10, label="truth", **hollow))
    if crowded:
        marks.append(Line2D([], [], color=OTHERS, linewidth=1, label="other candidates"))
    figure.legend(
        handles=marks, loc="lower left", bbox_to_anchor=(_box(layout)[0], 0), frameon=False,
        ncols=len(marks) if layout is WIDE else 3, fontsize=0.95 * layout.font,
        handlelength=2, columnspacing=1.4, handletextpad=0.5, borderaxespad=0.3,
    )  # fmt: skip
