"""Figures of the diagnostics: kernel spectra and decay, the subsets' drift."""

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
from lensllm.report.style import CROWD, MUTED, PALETTE, SHADE, WIDE, Layout
from lensllm.spectra.spectrum import standard_error

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


def _largest(values: pd.Series) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.max()) if len(finite) else 0.0
