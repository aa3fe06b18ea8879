"""Figures of the curvature: the bound's terms, and the spectral density of the Hessian."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from lensllm.report import style, text
from lensllm.report.data import Array, ReportData
from lensllm.report.style import CROWD, INK, MUTED, OTHERS, PALETTE, PAPER, WIDE, Layout, Look

_KNOWN = ["loss_bound", "uniform_nats_per_token"]  # a bound no lower than either is vacuous
_BOUND_ROWS = 24  # bars that still can be told apart; the table below the figure has every cell
BROADENING = 0.3  # standard deviation of a node's Gaussian, on the axis of the density
# Of the largest eigenvalue: the axis is linear up to a power of ten near it. Among the many small
# eigenvalues a dozen Lanczos steps resolve nothing finer.
_LINEAR = 1e-2


def bound(data: ReportData, layout: Layout = WIDE) -> Figure:
    """The two terms of the Hessian bound, stacked, and the measured test loss, per cell."""
    rows = _bound_rows(data)
    names = [text.shorten(text.without_owner(str(name)), layout.label_characters)
             for name in rows["candidate"]]  # fmt: skip
    repeated = rows["candidate"].duplicated()
    places = -np.arange(len(rows))
    with style.style():
        em = layout.font / 72
        key = 2.3 if layout is WIDE else 4.0  # one line, or two
        height = (4.1 + key + 1.75 * len(rows)) * em
        left = (0.64 * max(map(len, names)) + 4.6) * em
        figure = Figure(figsize=(layout.width, height))
        axes = figure.add_axes((
            left / layout.width, 3.9 * em / height,
            (layout.width - left - 2 * em) / layout.width, 1 - (3.9 + key) * em / height,
        ))  # fmt: skip
        bars: dict[str, Any] = {"height": 0.62, "linewidth": 0}
        axes.barh(places, rows["train_term"], color=PALETTE[0], **bars, label="(1 + ε) train loss")
        axes.barh(places, rows["curvature_term"], left=rows["train_term"], color=PALETTE[4],
                  **bars, label="curvature term")  # fmt: skip
        axes.plot(rows[_KNOWN].min(axis=1), places, linestyle="none", marker="|", markersize=8,
                  color=MUTED, markeredgewidth=1.6, label="C or ln V, the lower")  # fmt: skip
        axes.plot(rows["test_nats_per_token"], places, linestyle="none", marker="D", markersize=5,
                  color=INK, markeredgecolor=PAPER, label="measured test loss")  # fmt: skip
        ticks = ["" if again else name for again, name in zip(repeated, names, strict=True)]
        axes.set_yticks(places, ticks, parse_math=False)
        axes.tick_params(axis="y", pad=4.2 * layout.font)
        for place, size in zip(places, rows["size"], strict=True):
            axes.annotate(text.size(size), (0, place), xycoords=axes.get_yaxis_transform(),
                          xytext=(-4, 0), textcoords="offset points", ha="right", va="center",
                          color=MUTED, fontsize=layout.font)  # fmt: skip
        axes.set_ylim(-len(rows) + 0.4, 0.6)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.tick_params(labelsize=layout.font)
        figure.legend(
            loc="upper left", ncols=4 if layout is WIDE else 2, frameon=False,
            fontsize=layout.font, handlelength=1.1, bbox_to_anchor=(0, 1), borderaxespad=0.2,
            columnspacing=1.2, handletextpad=0.5,
        )  # fmt: skip
        axes.set_xlabel("nats per token", fontsize=layout.font)
    return figure


def density(data: ReportData, layout: Layout = WIDE) -> Figure:
    """Spectral density of each candidate's Hessian: its Gauss nodes, broadened.

    The axis is asinh(λ / s), linear within ±s and logarithmic beyond, and a node is a Gaussian on
    it, so that a large eigenvalue is broadened by a share of itself. The area under a line is 1.
    """
    looks = {name: look for name, look in style.looks(data).items() if name in data.densities}
    scale = linear_scale(data)
    nodes = np.concatenate([data.densities[name]["eigenvalue"] for name in looks])
    low, high = np.arcsinh(np.array([nodes.min(), nodes.max()]) / scale)
    places = np.linspace(low - 4 * BROADENING, high + 4 * BROADENING, 500)
    with style.style():
        figure, axes = _framed(looks, layout)
        for name, look in reversed(looks.items()):
            line = broadened(data.densities[name], scale, places)
            axes.plot(places, line, color=look.colour, linewidth=0.6 if look is CROWD else 1.4)
        axes.set_xlim(places[0], places[-1])
        _eigenvalues(axes, scale, layout)
        axes.set_yscale("log")
        # one eigenvalue of so many has less than a thirtieth of its share once in seven draws
        axes.set_ylim(1 / (30 * float(data.cells["parameters"].max())), 5)
        axes.tick_params(labelsize=layout.font)
        axes.grid(axis="x", visible=False)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("Eigenvalue λ", fontsize=layout.font)
        axes.set_title("Density, per unit of the axis", loc="left", fontsize=layout.font,
                       weight="bold", pad=6)  # fmt: skip
    return figure


def _framed(looks: Mapping[str, Look], layout: Layout) -> tuple[Figure, Axes]:
    """Axes below a key that names the candidates."""
    named = [(name, look) for name, look in looks.items() if look is not CROWD]
    handles = [
        Line2D([], [], color=look.colour, linewidth=1.6,
               label=text.shorten(text.without_owner(name), layout.label_characters))
        for name, look in named
    ]  # fmt: skip
    if len(named) < len(looks):
        handles.append(Line2D([], [], color=OTHERS, linewidth=0.8, label="the others"))
    em, columns = layout.font / 72, 4 if layout is WIDE else 2
    above = (1.7 * -(-len(handles) // columns) + 2.6) * em
    height = 3.2 + above
    figure = Figure(figsize=(layout.width, height))
    axes = figure.add_axes((
        3.4 * em / layout.width, 3.8 * em / height,
        1 - 4.4 * em / layout.width, 1 - (3.8 * em + above) / height,
    ))  # fmt: skip
    key = figure.legend(
        handles=handles, loc="upper left", ncols=columns, frameon=False, fontsize=layout.font,
        bbox_to_anchor=(0, 1), borderaxespad=0.2, columnspacing=1.4, handlelength=1.4,
    )  # fmt: skip
    for name in key.get_texts():
        name.set_parse_math(False)
    return figure, axes


def linear_scale(data: ReportData) -> float:
    """s of the density's axis: eigenvalues smaller than this are not told apart."""
    largest = max(float(rows["eigenvalue"].abs().max()) for rows in data.densities.values())
    return float(10.0 ** round(math.log10(_LINEAR * largest)))


def broadened(rows: pd.DataFrame, scale: float, places: Array) -> Array:
    """The density of ``rows``, nodes and weights, at ``places`` on the axis asinh(λ / scale)."""
    nodes = np.arcsinh(rows["eigenvalue"].to_numpy(dtype=float) / scale)
    steps = (places[:, None] - nodes) / BROADENING
    bells = np.exp(-(steps**2) / 2) / (BROADENING * math.sqrt(2 * math.pi))
    values: Array = bells @ rows["weight"].to_numpy(dtype=float)
    return values


def _eigenvalues(axes: Axes, scale: float, layout: Layout) -> None:
    """Zero and powers of ten, as far as there is room for their names."""
    low, high = np.sinh(axes.get_xlim()) * scale
    powers = 10.0 ** np.arange(round(math.log10(scale)), math.ceil(math.log10(high)) + 1)
    ticks = [*-powers[::-1], 0.0, *powers]
    ticks = [tick for tick in ticks if low <= tick <= high]
    axes.xaxis.set_major_locator(FixedLocator(np.arcsinh(np.array(ticks) / scale).tolist()))
    axes.xaxis.set_major_formatter(FixedFormatter([text.significant(t, digits=1) for t in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())


def _bound_rows(data: ReportData) -> pd.DataFrame:
    """Bounds averaged over seeds, in the order of the ranking, at most _BOUND_ROWS."""
    columns = ["train_term", "curvature_term", "test_nats_per_token", *_KNOWN]
    rows = data.bounds.groupby(["candidate", "size"], as_index=False)[columns].mean()
    order = {name: place for place, name in enumerate(data.candidates)}
    rows = rows.assign(place=rows["candidate"].map(order)).sort_values(["place", "size"])
    if len(rows) > _BOUND_ROWS:
        rows = rows.drop_duplicates("candidate", keep="last")
    return rows.head(_BOUND_ROWS)
