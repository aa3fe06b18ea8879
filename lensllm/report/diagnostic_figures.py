"""Figures of the diagnostics: kernel spectra and decay, the bound's terms, the subsets' drift."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lensllm.report import diagnostic_tables, style, text
from lensllm.report.data import Array, ReportData
from lensllm.report.labels import Label, direct_labels
from lensllm.report.panels import heading, panels, size_axis
from lensllm.report.style import CROWD, INK, MUTED, PALETTE, PAPER, SHADE, WIDE, Layout
from lensllm.spectrum import standard_error

_BOUND_ROWS = 24  # bars that still can be told apart; the table below the figure has every cell
# eigenvalues below this share of the largest are rounding of the float32 gradients behind them
_NEGLIGIBLE = 1e-7


def kernels(data: ReportData, layout: Layout = WIDE) -> Figure:
    """Eigenvalues of K/n by index, and F(t)/F(0), the share of the residual left at time t.

    The share of a named candidate has a band of one standard error by the choice of probes.
    """
    looks = style.looks(data)
    shown = [name for name in looks if name in data.kernels]
    times = _times(data)
    with style.style():
        figure, (left, right) = panels(layout, 2, 3.4, layout.label_inches)
        labels = []
        for name in reversed(shown):
            look, spectrum = looks[name], data.kernels[name]
            line: dict[str, Any] = {
                "color": look.colour,
                "linewidth": 0.6 if look is CROWD else 1.5,
            }
            values = spectrum.eigenvalues[
                spectrum.eigenvalues > _NEGLIGIBLE * spectrum.eigenvalues[0]
            ]
            left.plot(np.arange(1, len(values) + 1), values, **line)
            share = spectrum.share(times)
            right.plot(times, share, **line)
            if look is not CROWD:
                error = standard_error(*diagnostic_tables.probes(data, name), times)
                right.fill_between(times, np.maximum(share - error, 0), share + error,
                                   color=look.colour, alpha=0.18, linewidth=0)  # fmt: skip
                labels.append(Label(float(share[-1]) / 1.04, text.without_owner(name), look))
        left.set(xscale="log", yscale="log", xlabel="Index k")
        heading(left, "Eigenvalues of K/n", layout)
        right.set(xscale="log", xlim=(times[0], times[-1]), ylim=(0, 1.04), xlabel="Flow time t")
        heading(right, "Residual left, F(t) / F(0)", layout)
        _stopping_times(right, data, layout)
        direct_labels(right, labels[::-1], layout)
    return figure


def bound(data: ReportData, layout: Layout = WIDE) -> Figure:
    """The two terms of the Hessian bound, stacked, and the measured test loss, per cell."""
    rows = _bound_rows(data)
    names = [text.shorten(text.without_owner(str(name)), layout.label_characters)
             for name in rows["candidate"]]  # fmt: skip
    repeated = rows["candidate"].duplicated()
    places = -np.arange(len(rows))
    with style.style():
        em = layout.font / 72
        height = (6.4 + 1.75 * len(rows)) * em
        left = (0.64 * max(map(len, names)) + 4.6) * em
        figure = Figure(figsize=(layout.width, height))
        axes = figure.add_axes((
            left / layout.width, 3.9 * em / height,
            (layout.width - left - 2 * em) / layout.width, 1 - 6.2 * em / height,
        ))  # fmt: skip
        bars: dict[str, Any] = {"height": 0.62, "linewidth": 0}
        axes.barh(places, rows["train_term"], color=PALETTE[0], **bars, label="(1 + ε) train loss")
        axes.barh(places, rows["curvature_term"], left=rows["train_term"], color=PALETTE[4],
                  **bars, label="curvature term")  # fmt: skip
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
            loc="upper left", ncols=3, frameon=False, fontsize=layout.font, handlelength=1.1,
            bbox_to_anchor=(0, 1), borderaxespad=0.2, columnspacing=1.2, handletextpad=0.5,
        )  # fmt: skip
        axes.set_xlabel("nats per token", fontsize=layout.font)
    return figure


def drift(data: ReportData, layout: Layout = WIDE) -> Figure:
    """How far each subset is from the full training set, in lengths and in words."""
    shown = (
        ("target_length_ks", "Target lengths, KS distance"),
        ("vocabulary_js_bits", "Target words, JS divergence, bits"),
        ("vocabulary_coverage", "Word occurrences covered"),
    )
    rows = data.drift.sort_values("size")
    with style.style():
        figure, all_axes = panels(layout, 3, 2.5, 0.0)
        for axes, (column, title) in zip(all_axes, shown, strict=True):
            axes.plot(rows["size"], rows[column], color=PALETTE[0], marker="o", markersize=4,
                      clip_on=False, zorder=3)  # fmt: skip
            axes.set_ylim(0, max(1e-3, 1.08 * _largest(rows[column])))
            size_axis(axes, [int(size) for size in rows["size"]], "Training examples, D", layout)
            heading(axes, title, layout)
    return figure


def _times(data: ReportData) -> Array:
    """Flow times around those at which cells stopped, else around the kernels' own time scales."""
    stopped = _stopped(data)
    fastest = max(float(s.eigenvalues[0]) for s in data.kernels.values())
    if not stopped.size:
        return np.geomspace(0.01 / fastest, 1e4 / fastest, 160)
    start = min(0.01 / fastest, float(stopped.min()))
    return np.geomspace(start, 10 * float(stopped.max()), 160)


def _stopped(data: ReportData) -> Array:
    """Flow times at which the cells stopped, where they trained at all."""
    times = data.cells["learning_rate_integral"].to_numpy(dtype=float)
    stopped: Array = times[np.isfinite(times) & (times > 0)]
    return stopped


def _stopping_times(axes: Axes, data: ReportData, layout: Layout) -> None:
    stopped = _stopped(data)
    if not stopped.size:
        return
    low, high = float(stopped.min()), float(stopped.max())
    axes.axvspan(low, high, color=SHADE, linewidth=0, zorder=0)
    axes.text(math.sqrt(low * high), 0.03, "cells stopped here", ha="center", va="bottom",
              color=MUTED, fontsize=0.92 * layout.font)  # fmt: skip


def _bound_rows(data: ReportData) -> pd.DataFrame:
    """Bounds averaged over seeds, in the order of the ranking, at most _BOUND_ROWS."""
    terms = ["train_term", "curvature_term", "test_nats_per_token"]
    rows = data.bounds.groupby(["candidate", "size"], as_index=False)[terms].mean()
    order = {name: place for place, name in enumerate(data.candidates)}
    rows = rows.assign(place=rows["candidate"].map(order)).sort_values(["place", "size"])
    if len(rows) > _BOUND_ROWS:
        rows = rows.drop_duplicates("candidate", keep="last")
    return rows.head(_BOUND_ROWS)


def _largest(values: pd.Series) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.max()) if len(finite) else 0.0
