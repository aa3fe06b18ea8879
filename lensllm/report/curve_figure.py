"""The main figure: what was measured, where it is predicted to go, and what proved true."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lensllm.laws.fit import evaluate
from lensllm.report import style, text
from lensllm.report.result import Array, Result

_CHEVRON = [(-1.0, -0.5), (0.0, 0.5), (1.0, -0.5)]  # "off the scale"

_MOST_DOTS = 20  # runs at one size; where there are more, a line says where 80 % of them lie

Ink = dict[str, Any]  # keyword arguments of one line or mark


def curves(result: Result, layout: style.Layout = style.WIDE) -> Figure:
    """Learning curves of every candidate up to the budget, extrapolated to the target."""
    looks = style.looks(result)
    named = [name for name, look in looks.items() if look is not style.CROWD]
    scale = Scale.of(result, layout)
    em, height = layout.font / 72, 5.9 if layout is style.WIDE else 4.8
    left, bottom, top = 4.2 * em, (6.4 if layout is style.WIDE else 9.2) * em, 4.4 * em
    inside = layout.width - left - layout.label_inches, height - bottom - top
    with style.style():
        figure = Figure(figsize=(layout.width, height))
        axes = style.axes_at(figure, left, bottom, *inside)
        _frame(axes, result, scale, layout)
        _crowd(axes, result, [name for name in looks if name not in named], scale)
        for name in reversed(named):  # the best last, on top of the others
            _curve(axes, result, name, looks[name], scale, layout)
        ranked = result.ranking[result.ranking["candidate"].isin(named)]
        places = np.linspace(scale.target, scale.end, len(ranked) + 2)[1:-1].tolist()
        for place, (_, row) in zip(places, ranked.iterrows(), strict=True):
            _prediction(axes, row, looks[row["candidate"]], place, layout)
        style.direct_labels(axes, _labels(result, looks), layout)
        _key(figure, result, layout, named, left / layout.width)
    return figure


def _crowd(axes: Axes, result: Result, names: Sequence[str], scale: Scale) -> None:
    """Thin grey lines of those that do not stand out, in two strokes: there may be thousands."""
    lines = [_line(result, name, scale) for name in names]
    dashed = [ahead for _, ahead in lines if ahead is not None]
    for strokes, dashes in (([known for known, _ in lines], "solid"), (dashed, style.DASHES)):
        axes.add_collection(
            LineCollection(
                strokes, colors=style.OTHERS, linewidths=0.7, linestyles=dashes, zorder=2
            ),
            autolim=False,
        )


def _curve(
    axes: Axes, result: Result, name: str, look: style.Look, scale: Scale, layout: style.Layout
) -> None:
    """One candidate's cells, and a line through them that is dashed where nothing was measured."""
    ink: Ink = {"color": look.colour, "zorder": 3}
    known, ahead = _line(result, name, scale)
    joined = result.fit(name) is None
    axes.plot(*known.T, linewidth=1.3 if joined else 1.5, **ink)
    if ahead is not None:
        axes.plot(*ahead.T, linewidth=1.0 if joined else 1.5, linestyle=style.DASHES, **ink)
    few, many = _repeats(result, name)
    axes.plot(np.log2(few.index), few, marker=".", markersize=4, linestyle="none", alpha=0.5,
              markeredgewidth=0, **ink)  # fmt: skip
    low, high = (many.groupby(level=0).quantile(share) for share in (0.1, 0.9))
    axes.vlines(np.log2(low.index), low, high, linewidth=1.5, alpha=0.5, **ink)
    marks: Ink = {"marker": look.marker, "markersize": layout.mark, "linestyle": "none", **ink}
    curve, paid = result.curve(name), _paid(result, name)
    axes.plot(np.log2(paid.index), paid, **marks)
    later = curve[(curve.index > result.budget) & (curve.index < result.target)]
    axes.plot(np.log2(later.index), later, markerfacecolor=style.PAPER, markeredgewidth=1, **marks)
    if 0 in curve.index:
        _zero_shot(axes, float(curve.loc[0]), paid, marks, scale)


def _paid(result: Result, name: str) -> pd.Series:
    curve = result.curve(name)
    return curve[(curve.index > 0) & (curve.index <= result.budget)]


def _line(result: Result, name: str, scale: Scale) -> tuple[Array, Array | None]:
    """(n, 2) places and losses of a line up to the budget, and of one that leads on to the target.

    They are the drawn law's, or join what was measured and then the prediction. A candidate that
    was dropped has no second line.
    """
    fit = result.fit(name)
    if fit is not None:
        ends = ((scale.first, scale.budget), (scale.budget, scale.target))
        known, ahead = (np.linspace(*pair, 80) for pair in ends)
        return (
            np.column_stack([known, evaluate(fit, 2.0**known)]),
            np.column_stack([ahead, evaluate(fit, 2.0**ahead)]),
        )
    paid = _paid(result, name)
    points = np.column_stack([np.log2(paid.index.to_numpy(dtype=float)), paid])
    if paid.empty or name not in result.predicted or name in result.dropped:
        return points, None
    return points, np.array([points[-1], (scale.target, result.predicted[name])])


def _repeats(result: Result, name: str) -> tuple[pd.Series, pd.Series]:
    """The single runs by size, where a size was run with several seeds, and with very many."""
    runs = result.runs(name).dropna()
    runs = runs[(runs.index > 0) & (runs.index < result.target)]
    count = runs.groupby(level=0).transform("size")
    return runs[(count > 1) & (count <= _MOST_DOTS)], runs[count > _MOST_DOTS]


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


def _prediction(
    axes: Axes, row: pd.Series, look: style.Look, place: float, layout: style.Layout
) -> None:
    """Predicted loss with its 80 % interval, and a star where the truth is known."""
    wide = layout.mark / style.WIDE.mark
    axes.plot([place, place], [row["low"], row["high"]], color=look.colour, alpha=0.45,
              linewidth=4.5 * wide, solid_capstyle="butt", zorder=3)  # fmt: skip
    axes.plot([place], [row["predicted"]], marker=look.marker, color=look.colour, zorder=4,
              markersize=4.5 * wide, linestyle="none")  # fmt: skip
    if math.isfinite(row["measured"]):
        axes.plot([place], [row["measured"]], marker="*", markersize=11.5 * wide, zorder=3.5,
                  markerfacecolor=style.PAPER, markeredgecolor=look.colour)  # fmt: skip


def _labels(result: Result, looks: dict[str, style.Look]) -> list[style.Label]:
    """Rank and name of each named candidate at its prediction, or else where its curve stops."""
    ranks = dict(zip(result.ranking["candidate"], result.ranking["rank"], strict=True))
    labels = []
    for name, look in looks.items():
        curve = result.curve(name)
        last = float(curve.iloc[-1]) if len(curve) else math.nan
        loss, rank = result.predicted.get(name, last), f"{ranks[name]}  " if name in ranks else ""
        if look is not style.CROWD and math.isfinite(loss) and loss > 0:
            bold = name == result.choice
            labels.append(style.Label(loss, text.without_owner(name), look, rank, bold))
    return labels


def _key(
    figure: Figure, result: Result, layout: style.Layout, named: Sequence[str], left: float
) -> None:
    """The legend of the marks, a line under the axis; candidates are named beside their lines."""
    law, sizes = result.drawn_law, result.cells["size"]
    dot: Ink = {"linestyle": "none", "marker": "o", "markersize": 5}
    hollow = {**dot, "markerfacecolor": style.PAPER}
    dashed = {"linestyle": (0, (3, 1.5)), "linewidth": 1.5}
    stroke = {**dot, "marker": "|", "markersize": 9, "markeredgewidth": 1.5, "alpha": 0.5}
    many = any(len(_repeats(result, name)[1]) for name in named)
    marks: list[tuple[str, Ink, bool]] = [
        ("measured", dot, True),
        (f"{law} law", {"linewidth": 1.5}, bool(law)),
        ("extrapolated" if law else "to the prediction", dashed, True),
        ("80 % interval", {"linewidth": 5, "alpha": 0.45, "solid_capstyle": "butt"}, True),
        ("80 % of runs", stroke, many),
        ("held back", hollow, bool(((sizes > result.budget) & (sizes < result.target)).any())),
        ("truth", {**hollow, "marker": "*", "markersize": 10}, bool(result.truth)),
        (
            "the others",
            {"color": style.OTHERS, "linewidth": 1},
            len(named) < len(result.candidates),
        ),
    ]
    handles = style.handles((label, ink) for label, ink, shown in marks if shown)
    figure.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(left, 0), frameon=False,
        ncols=len(handles) if layout is style.WIDE else 3, fontsize=0.95 * layout.font,
        handlelength=2, columnspacing=1.4, handletextpad=0.5, borderaxespad=0.3,
    )  # fmt: skip


# --- the frame --------------------------------------------------------------------------------
# Intervals and zero-shot losses outside the curves may add half of the curves' height on either
# side (on the logarithmic scale); what is farther out is cut off, or the curves would be flattened.
_REACH = 0.5
_LEAST_REACH = 1.25  # a factor in loss, for curves that hardly fall


@dataclass(frozen=True)
class Scale:
    """Places on the horizontal axis, in log2 of the size D."""

    zero: float  # the slot for D = 0, left of a break in the axis
    first: float  # the smallest D measured
    budget: float
    target: float
    end: float  # right of the target stand the predictions side by side

    @classmethod
    def of(cls, result: Result, layout: style.Layout) -> Scale:
        """The axis that holds every cell of ``result`` and its target."""
        sizes = result.cells.loc[result.cells["size"] > 0, "size"].unique()
        budget, target = math.log2(result.budget), math.log2(result.effective_target)
        first = min([*map(math.log2, sizes), budget, target])
        span = max(target - first, 1.0)
        reach = 0.2 if layout is style.WIDE else 0.32
        return cls(first - 0.13 * span, first, budget, target, target + reach * span)


def _frame(axes: Axes, result: Result, scale: Scale, layout: style.Layout) -> None:
    """Scales, ticks, the break before D = 0, and the lines at budget and target."""
    axes.set_yscale("log")
    low, high = _loss_range(result)
    axes.set_ylim(low, high)
    losses = [tick for tick in MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
              if low <= tick <= high]  # fmt: skip
    style.ticks(axes.yaxis, losses, [f"{tick:g}" for tick in losses])

    has_zero = bool((result.cells["size"] == 0).any())
    margin = 0.035 * (scale.end - scale.first)
    axes.set_xlim((scale.zero if has_zero else scale.first) - margin, scale.end)
    shown = _shown_sizes(axes, result, scale, layout)
    places, names = [math.log2(size) for size in shown], [text.size(size) for size in shown]
    if result.target_epochs > 1:
        names[-1] = f"{text.size(result.target)} × {result.target_epochs}"
    if has_zero:
        places, names = [scale.zero, *places], ["0", *names]
        _break(axes, (scale.zero + scale.first) / 2)
    style.ticks(axes.xaxis, places, names)
    axes.tick_params(pad=3)
    style.bare(axes, layout)

    axes.axvspan(scale.budget, scale.target, color=style.SHADE, linewidth=0, zorder=0)
    axes.axvline(scale.budget, color=style.MUTED, linewidth=0.9, zorder=1)
    axes.axvline(scale.target, color=style.MUTED, linewidth=0.9, zorder=1)
    style.beside(axes, "at the target", scale.target, layout, "left")
    axes.spines["bottom"].set_bounds(axes.get_xlim()[0], scale.target)
    if scale.budget < scale.target:
        style.beside(axes, "budget", scale.budget, layout, "right")
    axes.text(
        0, 1 + 2.3 * layout.font / 72 / style.inches(axes)[1],
        f"Test loss, {result.unit} (lower is better)", transform=axes.transAxes,
        fontsize=layout.font, weight="bold", ha="left", va="bottom",
    )  # fmt: skip
    axes.set_xlabel("Training examples, D", fontsize=layout.font, labelpad=4)


def _break(axes: Axes, place: float) -> None:
    """Two strokes across the axis: D = 0 has no place on a logarithmic scale."""
    width = 0.012 * (axes.get_xlim()[1] - axes.get_xlim()[0])
    ends = [place - width / 2, place + width / 2]
    ink: Ink = {"transform": axes.get_xaxis_transform(), "clip_on": False}
    axes.plot(ends, [0, 0], color=style.PAPER, linewidth=4, zorder=5, solid_capstyle="butt", **ink)
    axes.plot(ends, [0, 0], color=style.MUTED, zorder=6, marker=[(-0.4, -1), (0.4, 1)],
              markersize=7, linestyle="none", **ink)  # fmt: skip


def _shown_sizes(axes: Axes, result: Result, scale: Scale, layout: style.Layout) -> list[int]:
    """Measured sizes, thinned so that their names do not touch; budget and target always stay."""
    sizes = {int(size) for size in result.cells["size"].unique() if 0 < size < result.target}
    least = (scale.end - scale.zero) * 4.4 * layout.font / 72 / style.inches(axes)[0]
    kept: list[int] = []
    for size in [result.effective_target, result.budget, *sorted(sizes, reverse=True)]:
        if all(abs(math.log2(size / other)) >= least for other in kept):
            kept.append(size)
    return sorted(kept)


def _loss_range(result: Result) -> tuple[float, float]:
    """Limits of the loss axis: the curves, and what is drawn beside them and not too far out."""
    rows, cells = result.ranking, result.cells
    named = [name for name, look in style.looks(result).items() if look is not style.CROWD]
    zero = (cells["size"] == 0) & cells["candidate"].isin(named)
    core = [cells.loc[cells["size"] > 0, result.metric], rows["predicted"], rows["measured"]]
    low, high = _ends(core, (1.0, 1.0))
    all_drawn = [*core, cells.loc[zero, result.metric], rows["low"], rows["high"]]
    least, most = _ends(all_drawn, (low, high))
    reach = max(_LEAST_REACH, (high / low) ** _REACH)
    low, high = max(least, low / reach), min(most, high * reach)
    pad = max((high / low) ** 0.04, 1.01)
    return low / pad, high * pad


def _ends(columns: Sequence[pd.Series], default: tuple[float, float]) -> tuple[float, float]:
    """The least and the largest of the positive values."""
    values = np.concatenate([column.to_numpy(dtype=float) for column in columns])
    values = values[np.isfinite(values) & (values > 0)]
    return (float(values.min()), float(values.max())) if len(values) else default
