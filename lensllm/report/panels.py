"""Several small axes in one figure: side by side, or stacked on a narrow screen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from lensllm.report import text
from lensllm.report.style import Layout


def panels(layout: Layout, count: int, height: float, right: float) -> tuple[Figure, list[Axes]]:
    """``count`` axes ``height`` inches tall: in a row, or stacked where the layout is narrow.

    ``right`` is the margin after the last of a row, in inches.
    """
    em = layout.font / 72
    across = min(count, layout.columns)
    down = -(-count // across)
    figure = Figure(figsize=(layout.width, height * down))
    left, bottom, top, between = 3.4 * em, 3.8 * em, 2.6 * em, 4.2 * em
    wide = (layout.width - left - max(right, em) - between * (across - 1)) / across
    tall = height - bottom - top
    axes = []
    for index in range(count):
        column, row = index % across, index // across
        x, y = left + column * (wide + between), (down - 1 - row) * height + bottom
        box = (x / layout.width, y / height / down, wide / layout.width, tall / height / down)
        axes.append(figure.add_axes(box))
    return figure, axes


def heading(axes: Axes, words: str, layout: Layout) -> None:
    """A title over one panel, and the look that all panels share."""
    axes.set_title(words, loc="left", fontsize=layout.font, weight="bold", pad=8)
    axes.tick_params(labelsize=0.92 * layout.font, which="both")
    axes.xaxis.label.set_fontsize(layout.font)
    axes.grid(axis="x", visible=False)
    axes.spines["left"].set_visible(False)


def size_axis(axes: Axes, sizes: Sequence[int], label: str, layout: Layout) -> None:
    """A logarithmic axis of the ascending ``sizes``, at most five of them named."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator([sizes[index] for index in _few(len(sizes))]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: text.size(size)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(label, fontsize=layout.font)


def _few(count: int) -> list[int]:
    """At most five of ``count`` places, first and last among them; at even steps if there are."""
    for step in (1, 2, 3, 4):
        if (count - 1) % step == 0 and (count - 1) // step < 5:
            return list(range(0, count, step))
    return [int(place) for place in np.linspace(0, count - 1, 5).round()]
