"""The frame of the main figure: sizes with a break before zero, losses, budget and target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

from lensllm.report import style, text
from lensllm.report.data import ReportData
from lensllm.report.style import CROWD, MUTED, PAPER, SHADE, WIDE, Layout

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
    def of(cls, data: ReportData, layout: Layout) -> Scale:
        """The axis that holds every cell of ``data`` and its target."""
        sizes = data.cells.loc[data.cells["size"] > 0, "size"].unique()
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


def height(layout: Layout) -> float:
    """Of the figure, in inches."""
    return 5.9 if layout is WIDE else 4.8


def box(layout: Layout) -> tuple[float, float, float, float]:
    """Left, bottom, width, height of the axes as shares of the figure."""
    em = layout.font / 72
    left, bottom, top = 4.2 * em, (6.4 if layout is WIDE else 9.2) * em, 4.4 * em
    wide, tall = layout.width, height(layout)
    return (
        left / wide,
        bottom / tall,
        (wide - left - layout.label_inches) / wide,
        (tall - bottom - top) / tall,
    )


def frame(axes: Axes, data: ReportData, scale: Scale, layout: Layout) -> None:
    """Scales, ticks, the break before D = 0, and the lines at budget and target."""
    axes.set_yscale("log")
    low, high = _loss_range(data)
    axes.set_ylim(low, high)
    ticks = [tick for tick in MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
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
    return height(layout) * box(layout)[3]


def _over(axes: Axes, place: float, word: str, layout: Layout, side: str) -> None:
    axes.annotate(
        word, (place, 1.0), xycoords=axes.get_xaxis_transform(), textcoords="offset points",
        xytext=(-3 if side == "right" else 3, 2), ha=side, va="bottom", color=MUTED,
        fontsize=layout.font,
    )  # fmt: skip


def _break(axes: Axes, place: float) -> None:
    """Two strokes across the axis: D = 0 has no place on a logarithmic scale."""
    strokes: dict[str, Any] = {
        "marker": [(-0.4, -1), (0.4, 1)], "markersize": 7, "linestyle": "none",
    }  # fmt: skip
    width = 0.012 * (axes.get_xlim()[1] - axes.get_xlim()[0])
    ground = axes.get_xaxis_transform()
    axes.plot([place - width / 2, place + width / 2], [0, 0], color=PAPER, linewidth=4,
              transform=ground, clip_on=False, zorder=5, solid_capstyle="butt")  # fmt: skip
    for x in (place - width / 2, place + width / 2):
        axes.plot([x], [0], color=MUTED, transform=ground, clip_on=False, zorder=6, **strokes)


def _size_ticks(data: ReportData, scale: Scale, layout: Layout) -> list[int]:
    """Measured sizes, thinned so that their names do not touch; budget and target always stay."""
    sizes = {int(size) for size in data.cells["size"].unique() if 0 < size < data.target}
    least = (scale.end - scale.zero) * 4.4 * layout.font / 72 / (layout.width * box(layout)[2])
    kept: list[int] = []
    for size in [data.target, data.budget, *sorted(sizes, reverse=True)]:
        if all(abs(math.log2(size / other)) >= least for other in kept):
            kept.append(size)
    return sorted(kept)


def _loss_range(data: ReportData) -> tuple[float, float]:
    """Limits of the loss axis: the curves, and what is drawn beside them and not too far out."""
    rows = data.ranking
    core = [
        data.cells.loc[data.cells["size"] > 0, data.metric],
        rows["predicted"],
        rows["measured"],
    ]
    named = data.cells["candidate"].isin(
        [name for name, look in style.looks(data).items() if look is not CROWD]
    )
    zero = data.cells.loc[named & (data.cells["size"] == 0), data.metric]
    low, high = _ends(core, (1.0, 1.0))
    least, most = _ends([*core, zero, rows["low"], rows["high"]], (low, high))
    reach = max(_LEAST_REACH, (high / low) ** _REACH)
    low, high = max(least, low / reach), min(most, high * reach)
    pad = max((high / low) ** 0.04, 1.01)
    return low / pad, high * pad


def _ends(columns: Sequence[pd.Series], default: tuple[float, float]) -> tuple[float, float]:
    """The least and the largest of the positive values."""
    values = np.concatenate([column.to_numpy(dtype=float) for column in columns])
    values = values[np.isfinite(values) & (values > 0)]
    return (float(values.min()), float(values.max())) if len(values) else default
