"""Names beside the lines they belong to, never on top of each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from scipy.optimize import isotonic_regression

from lensllm.report import text
from lensllm.report.style import Layout, Look


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Move ``positions`` (in [0, 1]) as little as possible until neighbours are ``gap`` apart.

    Subtracting i·gap from the i-th smallest turns the separation into monotonicity, so the least
    squares solution is an isotonic regression (Dwyer, Marriott, Stuckey 2006, one dimension).
    """
    order = np.argsort(positions, kind="stable")
    steps = gap * np.arange(len(order))
    free = isotonic_regression(np.asarray(positions, dtype=float)[order] - steps).x
    moved = np.clip(free, 0.0, max(0.0, 1.0 - gap * (len(order) - 1))) + steps
    result = np.empty(len(order))
    result[order] = moved
    return [float(value) for value in result]


@dataclass(frozen=True)
class Label:
    """A name to be written right of the axes, at a height in axes coordinates."""

    height: float
    name: str
    look: Look
    rank: str = ""
    bold: bool = False


def direct_labels(axes: Axes, labels: Sequence[Label], layout: Layout) -> None:
    """Write names right of ``axes`` with the candidate's mark, moved apart, joined by leaders."""
    wide, tall = _inches(axes)
    heights = spread([label.height for label in labels], 1.5 * layout.font / 72 / tall)
    em = layout.font / 72 / wide
    for label, height in zip(labels, heights, strict=True):
        axes.plot(
            [1.0, 1 + 1.1 * em, 1 + 1.5 * em], [label.height, height, height],
            color=label.look.colour, linewidth=0.8, alpha=0.7,
            transform=axes.transAxes, clip_on=False,
        )  # fmt: skip
        axes.plot(
            [1 + 2.0 * em], [height], marker=label.look.marker, color=label.look.colour,
            markersize=0.6 * layout.font, transform=axes.transAxes, clip_on=False, linestyle="none",
        )  # fmt: skip
        width = layout.label_characters - 2 * label.bold  # bold letters are wider
        axes.text(
            1 + 2.7 * em, height, label.rank + text.shorten(label.name, width),
            fontsize=layout.font, va="center", transform=axes.transAxes, parse_math=False,
            weight="bold" if label.bold else "normal",
        )  # fmt: skip


def _inches(axes: Axes) -> tuple[float, float]:
    box = axes.get_window_extent()
    figure = axes.get_figure(root=True)
    assert figure is not None
    return box.width / figure.dpi, box.height / figure.dpi
