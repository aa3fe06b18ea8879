"""Figures of the curvature: the bound's terms, where they cross, and the Hessian's density."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.transforms import offset_copy

from lensllm.hessian.bound import REMAINDERS
from lensllm.report import style, text
from lensllm.report.answer_tables import records
from lensllm.report.result import Array, Result

_KNOWN = ["loss_bound", "uniform_nats_per_token"]  # a bound no lower than either is vacuous
_MOST_ROWS = 24  # that can be told apart; the tables below the figures have all of them
BROADENING = 0.3  # standard deviation of a node's Gaussian, on the axis of the density
# Of the largest eigenvalue: the axis is linear up to a power of ten near it. Among the many small
# eigenvalues a dozen Lanczos steps resolve nothing finer.
_LINEAR = 1e-2
_OFFSET = 0.2  # of a row of the crossings: how far its two readings stand from its middle
_DOTS = (0, (1, 1.6))
_OTHERS: tuple[str, dict[str, Any]] = ("the others", {"color": style.OTHERS, "linewidth": 0.8})


def bound(result: Result, layout: style.Layout = style.WIDE) -> Figure:
    """The two terms of the Hessian bound, stacked, and the measured test loss, per cell."""
    rows = _bound_rows(result)
    names = [style.short_name(str(name), layout) for name in rows["candidate"]]
    repeated = rows["candidate"].duplicated()
    places = -np.arange(len(rows))
    em = layout.font / 72
    key = 2.3 if layout is style.WIDE else 4.0  # one line, or two
    height = (4.1 + key + 1.75 * len(rows)) * em
    left = (0.64 * max(map(len, names)) + 4.6) * em
    with style.style():
        figure = Figure(figsize=(layout.width, height))
        inside = layout.width - left - 2 * em, height - (3.9 + key) * em
        axes = style.axes_at(figure, left, 3.9 * em, *inside)
        bars: dict[str, Any] = {"height": 0.62, "linewidth": 0}
        axes.barh(
            places, rows["train_term"], color=style.PALETTE[0], **bars, label="(1 + ε) train loss"
        )
        axes.barh(places, rows["curvature_term"], left=rows["train_term"], color=style.PALETTE[4],
                  **bars, label="curvature term")  # fmt: skip
        axes.plot(rows[_KNOWN].min(axis=1), places, linestyle="none", marker="|", markersize=8,
                  color=style.MUTED, markeredgewidth=1.6, label="C or ln V, the lower")  # fmt: skip
        axes.plot(rows["test_nats_per_token"], places, linestyle="none", marker="D", markersize=5,
                  color=style.INK, markeredgecolor=style.PAPER,
                  label="measured test loss")  # fmt: skip
        shown = ["" if again else name for again, name in zip(repeated, names, strict=True)]
        axes.set_yticks(places, shown, parse_math=False)
        axes.tick_params(axis="y", pad=4.2 * layout.font)
        for place, size in zip(places, rows["size"], strict=True):
            axes.annotate(text.size(size), (0, place), xycoords=axes.get_yaxis_transform(),
                          xytext=(-4, 0), textcoords="offset points", ha="right", va="center",
                          color=style.MUTED, fontsize=layout.font)  # fmt: skip
        axes.set_ylim(-len(rows) + 0.4, 0.6)
        style.bare(axes, layout, grid="y")
        style.legend(figure, layout, columns=4 if layout is style.WIDE else 2)
        axes.set_xlabel("nats per token", fontsize=layout.font)
    return figure


def _bound_rows(result: Result) -> pd.DataFrame:
    """Bounds averaged over seeds, in the order of the ranking, at most _MOST_ROWS."""
    columns = ["train_term", "curvature_term", "test_nats_per_token", *_KNOWN]
    rows = result.bounds.groupby(["candidate", "size"], as_index=False)[columns].mean()
    order = {name: place for place, name in enumerate(result.candidates)}
    rows = rows.assign(place=rows["candidate"].map(order)).sort_values(["place", "size"])
    if len(rows) > _MOST_ROWS:
        rows = rows.drop_duplicates("candidate", keep="last")
    return rows.head(_MOST_ROWS)


# --- the density ------------------------------------------------------------------------------
def density(result: Result, layout: style.Layout = style.WIDE) -> Figure:
    """Spectral density of each candidate's Hessian: its Gauss nodes, broadened.

    The axis is asinh(λ / s), linear within ±s and logarithmic beyond, and a node is a Gaussian on
    it, so that a large eigenvalue is broadened by a share of itself. The area under a line is 1.
    """
    looks = {name: look for name, look in style.looks(result).items() if name in result.densities}
    scale = linear_scale(result)
    nodes = np.concatenate([result.densities[name]["eigenvalue"] for name in looks])
    low, high = np.arcsinh(np.array([nodes.min(), nodes.max()]) / scale)
    places = np.linspace(low - 4 * BROADENING, high + 4 * BROADENING, 500)
    named = {name: look for name, look in looks.items() if look is not style.CROWD}
    key: list[tuple[str, dict[str, Any]]] = [
        (style.short_name(name, layout), {"color": look.colour, "linewidth": 1.6})
        for name, look in named.items()
    ]
    if len(named) < len(looks):
        key.append(_OTHERS)
    em, columns = layout.font / 72, 4 if layout is style.WIDE else 2
    height = 3.2 + (1.7 * -(-len(key) // columns) + 2.6) * em
    with style.style():
        figure = Figure(figsize=(layout.width, height))
        axes = style.axes_at(figure, 3.4 * em, 3.8 * em, layout.width - 4.4 * em, 3.2 - 3.8 * em)
        style.legend(figure, layout, columns, key)
        for name, look in reversed(looks.items()):
            line = broadened(result.densities[name], scale, places)
            axes.plot(
                places, line, color=look.colour, linewidth=0.6 if look is style.CROWD else 1.4
            )
        axes.set_xlim(places[0], places[-1])
        low, high = np.sinh(axes.get_xlim()) * scale
        powers = 10.0 ** np.arange(round(math.log10(scale)), math.ceil(math.log10(high)) + 1)
        shown = [tick for tick in (*-powers[::-1], 0.0, *powers) if low <= tick <= high]
        names = [text.significant(tick, digits=1) for tick in shown]
        style.ticks(axes.xaxis, np.arcsinh(np.array(shown) / scale).tolist(), names)
        axes.set_yscale("log")
        # one eigenvalue of so many has less than a thirtieth of its share once in seven draws
        axes.set_ylim(1 / (30 * float(result.cells["parameters"].max())), 5)
        style.bare(axes, layout)
        axes.set_xlabel("Eigenvalue λ", fontsize=layout.font)
        style.title(axes, "Density, per unit of the axis", layout)
    return figure


def linear_scale(result: Result) -> float:
    """s of the density's axis: eigenvalues smaller than this are not told apart."""
    largest = max(float(rows["eigenvalue"].abs().max()) for rows in result.densities.values())
    return float(10.0 ** round(math.log10(_LINEAR * largest)))


def broadened(rows: pd.DataFrame, scale: float, places: Array) -> Array:
    """The density of ``rows``, nodes and weights, at ``places`` on the axis asinh(λ / scale)."""
    nodes = np.arcsinh(rows["eigenvalue"].to_numpy(dtype=float) / scale)
    steps = (places[:, None] - nodes) / BROADENING
    bells = np.exp(-(steps**2) / 2) / (BROADENING * math.sqrt(2 * math.pi))
    values: Array = bells @ rows["weight"].to_numpy(dtype=float)
    return values


# --- where the curvature term overtakes the remainder -----------------------------------------
def crossing(result: Result, layout: style.Layout = style.WIDE) -> Figure:
    """C₃ n^(−β₃) of each candidate and n^(−3/4) over n; below them n*, its interval, and D*."""
    fits = {row["candidate"]: row for row in records(result.crossings)}
    looks = {name: look for name, look in style.looks(result).items() if name in fits}
    names = [style.short_name(name, layout) for name in list(looks)[:_MOST_ROWS]]
    em = layout.font / 72
    left = (0.64 * max(map(len, names)) + 2.8) * em
    terms, rows = (2.6 if layout is style.WIDE else 2.2), 1.9 * len(names) * em
    bottom, between, top = 3.9 * em, 1.2 * em, (4.4 if layout is style.WIDE else 6.2) * em
    inside = layout.width - left - 1.5 * em
    with style.style():
        figure = Figure(figsize=(layout.width, bottom + rows + between + terms + top))
        below = style.axes_at(figure, left, bottom, inside, rows)
        above = style.axes_at(figure, left, bottom + rows + between, inside, terms)
        below.set_ylim(-len(names) + 0.5, 0.5)
        below.set_yticks(-np.arange(len(names)), names, parse_math=False)
        below.tick_params(axis="y", pad=2.2 * layout.font)
        for axes in (above, below):
            _sizes(axes, result, layout)
        above.tick_params(labelbottom=False)
        above.set_xlabel("")
        _terms(above, result, fits, looks, layout)
        _places(below, result, dict(list(looks.items())[:_MOST_ROWS]), layout)
        dot: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 5}
        stroke = {**dot, "marker": "|", "markersize": 9, "markeredgewidth": 1.6}
        marks = [
            ("n^(−3/4)", {"linewidth": 1.2, "linestyle": _DOTS}),
            ("n*, fitted", dot),
            ("n*, literal", {**dot, "markerfacecolor": style.PAPER}),
            ("80 % interval", {"linewidth": 3, "alpha": 0.45}),
            ("D* of the law", stroke),
        ]
        if style.CROWD in looks.values():
            marks.append(_OTHERS)
        style.legend(figure, layout, len(marks) if layout is style.WIDE else 3, marks)
    return figure


def _sizes(axes: Axes, result: Result, layout: style.Layout) -> None:
    """The axis of training examples: those examined, the target, and down to where lines cross."""
    sizes = sorted({int(size) for size in (*result.bounds["size"], result.budget, result.target)})
    first = min(sizes[0], max(1.0, result.crossings["crossing_size"].min()))
    smaller = [10**power for power in range(6) if first <= 10**power < sizes[0] / 2]
    style.size_axis(axes, [*smaller, *sizes], "Training examples, n", layout)
    axes.set_xlim(first / 1.5, sizes[-1] * 1.5)
    axes.axvspan(result.budget, result.target, color=style.SHADE, linewidth=0, zorder=0)
    axes.axvline(result.budget, color=style.MUTED, linewidth=0.9, zorder=1)
    style.bare(axes, layout)


def _terms(
    axes: Axes,
    result: Result,
    fits: Mapping[str, Mapping[str, Any]],
    looks: Mapping[str, style.Look],
    layout: style.Layout,
) -> None:
    """Measured curvature terms and their power laws, dashed where nothing was measured."""
    axes.set_yscale("log")
    means = result.bounds.groupby(["candidate", "size"])["curvature_term"].mean()
    crowd, ends = [], np.array(axes.get_xlim())
    for name, look in reversed(list(looks.items())):
        measured, law = means[name], fits[name]
        known = np.array([measured.index[0], measured.index[-1]], dtype=float)
        term, beyond = (law["C3"] * sizes ** -law["beta3"] for sizes in (known, ends))
        if look is style.CROWD:
            crowd.append(np.column_stack([known, term]))
            continue
        ink: dict[str, Any] = {"color": look.colour, "zorder": 3}
        axes.plot(known, term, linewidth=1.6, **ink)
        axes.plot(ends, beyond, linewidth=0.8, linestyle=style.DASHES, **ink)
        axes.plot(measured.index, measured, marker=look.marker, markersize=layout.mark,
                  linestyle="none", **ink)  # fmt: skip
    axes.add_collection(LineCollection(crowd, colors=style.OTHERS, linewidths=0.7, zorder=2))
    axes.plot(ends, ends**-0.75, color=style.INK, linewidth=1.2, linestyle=_DOTS)
    style.title(axes, "Curvature term, nats per token", layout)
    style.beside(axes, "budget", result.budget, layout, "right", va="top", rise=-2)


def _places(
    axes: Axes, result: Result, looks: Mapping[str, style.Look], layout: style.Layout
) -> None:
    """A row each: n* as the theorem has it, below it as fitted, and the law's D* across both."""
    rows = {(row["candidate"], row["remainder"]): row for row in records(result.crossings)}
    left = offset_copy(axes.get_yaxis_transform(), axes.get_figure(root=True),
                       x=-1.4 * layout.font, units="points")  # fmt: skip
    for place, (name, look) in enumerate(looks.items()):
        mark: dict[str, Any] = {"color": look.colour, "marker": look.marker}
        axes.plot([0], [-place], transform=left, clip_on=False, markersize=layout.mark, **mark)
        literal, fitted = (rows[name, remainder] for remainder in REMAINDERS)
        for row, up, face in ((literal, _OFFSET, style.PAPER), (fitted, -_OFFSET, look.colour)):
            ends = np.clip([row["low"], row["high"]], *axes.get_xlim())  # NaN stays NaN
            axes.plot(ends, [up - place] * 2, color=look.colour, alpha=0.45, linewidth=3,
                      solid_capstyle="butt")  # fmt: skip
            _point(axes, row["crossing_size"], up - place, layout, markersize=layout.mark,
                   markerfacecolor=face, **mark)  # fmt: skip
        _point(axes, literal["transition_size"], -place, layout, color=style.INK, marker="|",
               markersize=1.3 * layout.font, markeredgewidth=1.6)  # fmt: skip


def _point(axes: Axes, size: float, height: float, layout: style.Layout, **ink: Any) -> None:
    """A mark, or an arrow at the end of the axis behind which it lies; nothing where unknown."""
    low, high = axes.get_xlim()
    if size < low or size > high:
        ink |= {"marker": "<" if size < low else ">", "markersize": layout.mark}
    axes.plot([np.clip(size, low, high)], [height], linestyle="none", clip_on=False, zorder=4,
              **ink)  # fmt: skip
