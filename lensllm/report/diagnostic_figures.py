"""Figures of the diagnostics: scores at every budget, kernel spectra and decay, subset drift."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lensllm.report import diagnostic_tables, style, text
from lensllm.report.answer_tables import by_budget
from lensllm.report.result import Array, Result
from lensllm.spectra.spectrum import standard_error

_NAMED = 5  # lines that still can be told apart; the tables have all of them


def budgets(result: Result, layout: style.Layout = style.WIDE) -> Figure:
    """Every score against the budget: the default predictor and the best others in colour."""
    tables = by_budget(result)
    looks = {
        name: style.Look(place, style.PALETTE[place], style.MARKERS[place])
        if place < _NAMED
        else style.CROWD
        for place, name in enumerate(tables[0].values.index)
    }
    with style.style():
        figure, all_axes = style.panels(layout, len(tables), 3.1, 0.62 * layout.label_inches)
        for axes, table in zip(all_axes, tables, strict=True):
            scores = table.values[result.budgets]
            low = min(0.0, float(np.nanmin(scores)))
            axes.set_ylim(low - 0.03, 1.03)
            style.size_axis(axes, result.budgets, "Budget, largest D known", layout)
            style.heading(axes, f"{table.heading} (1 is best)", layout)
            labels = []
            for name, look in reversed(looks.items()):
                axes.plot(result.budgets, scores.loc[name], **_ink(look, name == result.predictor))
                last = float(scores.loc[name].iloc[-1])
                if look is not style.CROWD and np.isfinite(last):
                    labels.append(style.Label(last, name, look))
            if axes is all_axes[-1] or layout.columns == 1:
                style.direct_labels(axes, labels[::-1], layout)
    return figure


def _ink(look: style.Look, default: bool) -> dict[str, Any]:
    if look is style.CROWD:
        return {"color": look.colour, "linewidth": 0.8, "zorder": 2}
    return {
        "color": look.colour, "marker": look.marker, "markersize": 4.5 if default else 3.5,
        "linewidth": 2.2 if default else 1.2, "zorder": 4 if default else 3, "clip_on": False,
    }  # fmt: skip


# eigenvalues below this share of the largest are rounding of the float32 gradients behind them
_NEGLIGIBLE = 1e-7


def kernels(result: Result, layout: style.Layout = style.WIDE) -> Figure:
    """Eigenvalues of K/n by index, and F(t)/F(0), the share of the residual left at time t.

    The share of a named candidate has a band of one standard error by the choice of probes.
    """
    looks = style.looks(result)
    shown = [name for name in looks if name in result.spectra]
    times, stopped = _flow_times(result)
    with style.style():
        figure, (left, right) = style.panels(layout, 2, 3.4, layout.label_inches)
        labels = []
        for name in reversed(shown):
            look, spectrum = looks[name], result.spectra[name]
            width = 0.6 if look is style.CROWD else 1.5
            line: dict[str, Any] = {"color": look.colour, "linewidth": width}
            values = spectrum.eigenvalues
            values = values[values > _NEGLIGIBLE * values[0]]
            left.plot(np.arange(1, len(values) + 1), values, **line)
            share = spectrum.share(times)
            right.plot(times, share, **line)
            if look is not style.CROWD:
                error = standard_error(*diagnostic_tables.probes(result, name), times)
                right.fill_between(times, np.maximum(share - error, 0), share + error,
                                   color=look.colour, alpha=0.18, linewidth=0)  # fmt: skip
                labels.append(style.Label(float(share[-1]), text.without_owner(name), look))
        left.set(xscale="log", yscale="log", xlabel="Index k")
        style.heading(left, "Eigenvalues of K/n", layout)
        right.set(xscale="log", xlim=(times[0], times[-1]), ylim=(0, 1.04), xlabel="Flow time t")
        style.heading(right, "Residual left, F(t) / F(0)", layout)
        if stopped.size:
            low, high = float(stopped.min()), float(stopped.max())
            right.axvspan(low, high, color=style.SHADE, linewidth=0, zorder=0)
            right.text(math.sqrt(low * high), 0.03, "cells stopped here", ha="center", va="bottom",
                       color=style.MUTED, fontsize=0.92 * layout.font)  # fmt: skip
        style.direct_labels(right, labels[::-1], layout)
    return figure


def drift(result: Result, layout: style.Layout = style.WIDE) -> Figure:
    """Distance of each subset from the full training set, in lengths and in words."""
    shown = (
        ("target_length_ks", "Target lengths, KS distance"),
        ("vocabulary_js_bits", "Target words, JS divergence, bits"),
        ("vocabulary_coverage", "Word occurrences covered"),
    )
    rows = result.drift.sort_values("size")
    with style.style():
        figure, all_axes = style.panels(layout, 3, 2.5, 0.0)
        for axes, (column, title) in zip(all_axes, shown, strict=True):
            axes.plot(rows["size"], rows[column], color=style.PALETTE[0], marker="o", markersize=4,
                      clip_on=False, zorder=3)  # fmt: skip
            axes.set_ylim(0, np.nanmax([1e-3, 1.08 * rows[column].max()]))
            style.size_axis(
                axes, [int(size) for size in rows["size"]], "Training examples, D", layout
            )
            style.heading(axes, title, layout)
    return figure


def _flow_times(result: Result) -> tuple[Array, Array]:
    """Flow times to draw, and those at which cells stopped, where they trained at all."""
    times = result.cells["learning_rate_integral"].to_numpy(dtype=float)
    stopped: Array = times[np.isfinite(times) & (times > 0)]
    fastest = max(float(s.eigenvalues[0]) for s in result.spectra.values())
    if not stopped.size:  # the kernels' own time scales
        return np.geomspace(0.01 / fastest, 1e4 / fastest, 160), stopped
    start = min(0.01 / fastest, float(stopped.min()))
    return np.geomspace(start, 10 * float(stopped.max()), 160), stopped
