"""Where along the curve the bound's curvature term overtakes its remainder, beside the law's D*.

Above, what falls against what; below, on the same axis, where the two meet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import offset_copy

from lensllm.hessian.bound import REMAINDERS
from lensllm.report import style, text
from lensllm.report.data import Array, ReportData
from lensllm.report.panels import size_axis
from lensllm.report.style import CROWD, INK, MUTED, OTHERS, PAPER, SHADE, WIDE, Layout, Look
from lensllm.report.tables import records

_ROWS = 24  # that still can be told apart; the table below the figure has every candidate
_BESIDE = 0.2  # of a row: how far its two readings stand from its middle
_DASHES, _DOTS = (0, (4, 2.2)), (0, (1, 1.6))


def crossing(data: ReportData, layout: Layout = WIDE) -> Figure:
    """C₃ n^(−β₃) of each candidate and n^(−3/4) over n; below them n*, its interval, and D*."""
    fits = {row["candidate"]: row for row in records(data.crossings)}
    looks = {name: look for name, look in style.looks(data).items() if name in fits}
    rows = {name: looks[name] for name in list(looks)[:_ROWS]}
    with style.style():
        figure, above, below = _framed(list(rows), layout)
        for axes in (above, below):
            _sizes(axes, data, layout)
        above.tick_params(labelbottom=False)
        above.set_xlabel("")
        _terms(above, data, fits, looks, layout)
        _places(below, data, rows, layout)
        _key(figure, layout, crowded=CROWD in looks.values())
    return figure


def _framed(names: Sequence[str], layout: Layout) -> tuple[Figure, Axes, Axes]:
    """The falling terms above a row for each of ``names``."""
    em = layout.font / 72
    shown = [text.shorten(text.without_owner(name), layout.label_characters) for name in names]
    left = (0.64 * max(map(len, shown)) + 2.8) * em
    terms, rows = (2.6 if layout is WIDE else 2.2), 1.9 * len(names) * em
    bottom, between, top = 3.9 * em, 1.2 * em, (4.4 if layout is WIDE else 6.2) * em
    height = bottom + rows + between + terms + top
    figure = Figure(figsize=(layout.width, height))
    x, wide = left / layout.width, (layout.width - left - 1.5 * em) / layout.width
    below = figure.add_axes((x, bottom / height, wide, rows / height))
    start = bottom + rows + between
    above = figure.add_axes((x, start / height, wide, terms / height))
    below.set_ylim(-len(names) + 0.5, 0.5)
    below.set_yticks(-np.arange(len(names)), shown, parse_math=False)
    below.tick_params(axis="y", pad=2.2 * layout.font)
    return figure, above, below


def _sizes(axes: Axes, data: ReportData, layout: Layout) -> None:
    """The axis of training examples: those examined, the target, and down to where lines cross."""
    sizes = sorted({int(size) for size in (*data.bounds["size"], data.budget, data.target)})
    first = min(sizes[0], max(1.0, data.crossings["crossing_size"].min()))
    smaller = [10**power for power in range(6) if first <= 10**power < sizes[0] / 2]
    size_axis(axes, [*smaller, *sizes], "Training examples, n", layout)
    axes.set_xlim(first / 1.5, sizes[-1] * 1.5)
    axes.axvspan(data.budget, data.target, color=SHADE, linewidth=0, zorder=0)
    axes.axvline(data.budget, color=MUTED, linewidth=0.9, zorder=1)
    axes.tick_params(labelsize=layout.font)
    axes.grid(axis="x", visible=False)
    axes.spines["left"].set_visible(False)


def _terms(
    axes: Axes,
    data: ReportData,
    fits: Mapping[str, Mapping[str, Any]],
    looks: Mapping[str, Look],
    layout: Layout,
) -> None:
    """Measured curvature terms and their power laws, dashed where nothing was measured."""
    axes.set_yscale("log")
    means = data.bounds.groupby(["candidate", "size"])["curvature_term"].mean()
    crowd, ends = [], np.array(axes.get_xlim())
    for name, look in reversed(list(looks.items())):
        measured = means[name]
        known = np.array([measured.index[0], measured.index[-1]], dtype=float)
        law = fits[name]
        if look is CROWD:
            crowd.append(_line(law, known))
            continue
        ink: dict[str, Any] = {"color": look.colour, "zorder": 3}
        axes.plot(*_line(law, known).T, linewidth=1.6, **ink)
        axes.plot(*_line(law, ends).T, linewidth=0.8, linestyle=_DASHES, **ink)
        axes.plot(measured.index, measured, marker=look.marker, markersize=layout.mark,
                  linestyle="none", **ink)  # fmt: skip
    axes.add_collection(LineCollection(crowd, colors=OTHERS, linewidths=0.7, zorder=2))
    axes.plot(ends, ends**-0.75, color=INK, linewidth=1.2, linestyle=_DOTS)
    axes.set_title("Curvature term, nats per token", loc="left", fontsize=layout.font,
                   weight="bold", pad=6)  # fmt: skip
    axes.annotate("budget", (data.budget, 1), xycoords=axes.get_xaxis_transform(), xytext=(-3, -2),
                  textcoords="offset points", ha="right", va="top", color=MUTED,
                  fontsize=layout.font)  # fmt: skip


def _line(law: Mapping[str, Any], sizes: Array) -> Array:
    """(2, 2) points of C₃ n^(−β₃)."""
    return np.column_stack([sizes, law["C3"] * sizes ** -law["beta3"]])


def _places(axes: Axes, data: ReportData, looks: Mapping[str, Look], layout: Layout) -> None:
    """A row each: n* as the theorem has it, below it as fitted, and the law's D* across both."""
    rows = {(row["candidate"], row["remainder"]): row for row in records(data.crossings)}
    beside = offset_copy(axes.get_yaxis_transform(), axes.get_figure(root=True),
                         x=-1.4 * layout.font, units="points")  # fmt: skip
    for place, (name, look) in enumerate(looks.items()):
        mark: dict[str, Any] = {"color": look.colour, "marker": look.marker}
        axes.plot([0], [-place], transform=beside, clip_on=False, markersize=layout.mark, **mark)
        literal, fitted = (rows[name, remainder] for remainder in REMAINDERS)
        _reading(axes, literal, _BESIDE - place, layout, markerfacecolor=PAPER, **mark)
        _reading(axes, fitted, -_BESIDE - place, layout, **mark)
        _point(axes, literal["transition_size"], -place, layout, color=INK, marker="|",
               markersize=1.3 * layout.font, markeredgewidth=1.6)  # fmt: skip


def _reading(axes: Axes, row: Mapping[str, Any], height: float, layout: Layout, **ink: Any) -> None:
    ends = np.clip([row["low"], row["high"]], *axes.get_xlim())  # NaN stays NaN
    axes.plot(ends, [height, height], color=ink["color"], alpha=0.45, linewidth=3,
              solid_capstyle="butt")  # fmt: skip
    _point(axes, row["crossing_size"], height, layout, markersize=layout.mark, **ink)


def _point(axes: Axes, size: float, height: float, layout: Layout, **ink: Any) -> None:
    """A mark, or an arrow at the end of the axis behind which it lies; nothing where unknown."""
    low, high = axes.get_xlim()
    if size < low or size > high:
        ink |= {"marker": "<" if size < low else ">", "markersize": layout.mark}
    axes.plot([np.clip(size, low, high)], [height], linestyle="none", clip_on=False, zorder=4,
              **ink)  # fmt: skip


def _key(figure: Figure, layout: Layout, crowded: bool) -> None:
    ink: dict[str, Any] = {"color": INK, "linestyle": "none"}
    marks = [
        Line2D([], [], color=INK, linewidth=1.2, linestyle=_DOTS, label="n^(−3/4)"),
        Line2D([], [], marker="o", markersize=5, label="n*, fitted", **ink),
        Line2D([], [], marker="o", markersize=5, markerfacecolor=PAPER, label="n*, literal", **ink),
        Line2D([], [], color=INK, linewidth=3, alpha=0.45, label="80 % interval"),
        Line2D([], [], marker="|", markersize=9, markeredgewidth=1.6, label="D* of the law", **ink),
    ]
    if crowded:
        marks.append(Line2D([], [], color=OTHERS, linewidth=0.8, label="the others"))
    figure.legend(
        handles=marks, loc="upper left", ncols=len(marks) if layout is WIDE else 3, frameon=False,
        fontsize=layout.font, bbox_to_anchor=(0, 1), borderaxespad=0.2, columnspacing=1.4,
        handlelength=1.4, handletextpad=0.5,
    )  # fmt: skip
