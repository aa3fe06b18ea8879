"""The look of every figure: palette, layouts, axes, legends, direct labels, SVG for the page."""

from __future__ import annotations

import html
import io
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from scipy.optimize import isotonic_regression

from lensllm.report import text
from lensllm.report.result import Result

INK, MUTED, FAINT, SHADE, PAPER = "#1f2328", "#66707b", "#d5dae0", "#f4f6f8", "#ffffff"
OTHERS = "#b3bac2"
# Okabe and Ito (2008), the ones that stand out on white first, yellow darkened to be seen on it
PALETTE = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#111111", "#8c7a00",
)  # fmt: skip
DASHES = (0, (4, 2.2))  # of a line where nothing was measured
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
THEME = {
    INK: "var(--ink)", MUTED: "var(--muted)", FAINT: "var(--line)", SHADE: "var(--shade)",
    PAPER: "var(--paper)", OTHERS: "var(--others)",
    **{colour: f"var(--c{index})" for index, colour in enumerate(PALETTE)},
}  # fmt: skip

_RC = {
    "svg.fonttype": "none",  # text stays text: searchable, and in the page's font
    "svg.hashsalt": "lensllm",
    "font.family": "DejaVu Sans",  # ships with matplotlib, so bytes do not depend on the machine
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "axes.labelcolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 3.5,
    "xtick.minor.size": 0,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "lines.solid_capstyle": "round",
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
}
_LOCK = threading.RLock()  # matplotlib's settings are global to the process


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's own defaults plus ours, whatever the user's matplotlibrc says."""
    with _LOCK, mpl.style.context(["default", _RC]):
        yield


@dataclass(frozen=True)
class Layout:
    """Measures of a figure in inches and points; the page shows the one that suits the screen."""

    width: float
    font: float  # points
    mark: float  # size of a measured point, points
    label_characters: int
    label_inches: float  # margin right of the axes for direct labels
    columns: int  # panels side by side


WIDE = Layout(width=10.0, font=9.0, mark=5.0, label_characters=22, label_inches=2.2, columns=3)
NARROW = Layout(width=3.8, font=7.5, mark=3.6, label_characters=14, label_inches=1.35, columns=1)


@dataclass(frozen=True)
class Look:
    """Drawing style of a candidate in all figures; ``index`` is None for the grey ones."""

    index: int | None
    colour: str
    marker: str


CROWD = Look(None, OTHERS, "o")


def looks(result: Result) -> dict[str, Look]:
    """A look for every candidate: the choice, the true best and the best ranked stand out."""
    best = sorted(result.truth, key=result.truth.__getitem__)[:1]
    return looks_of(result.candidates, [result.choice, *best])


def looks_of(candidates: Sequence[str], first: Sequence[str]) -> dict[str, Look]:
    """A look for every candidate; of too many for it the ``first`` and the foremost stand out."""
    named = candidates
    if len(candidates) > len(PALETTE):
        standing_out = list(dict.fromkeys([*first, *candidates]))[: len(PALETTE)]
        named = [name for name in candidates if name in standing_out]
    own = {name: Look(index, PALETTE[index], MARKERS[index]) for index, name in enumerate(named)}
    return {name: own.get(name, CROWD) for name in candidates}


def short_name(name: str, layout: Layout) -> str:
    """A candidate's name without its owner, in the width that figures have for it."""
    return text.shorten(text.without_owner(name), layout.label_characters)


def svg(figure: Figure, name: str, description: str) -> str:
    """``figure`` as an ``<svg>`` element in the colours of the page's theme.

    It has no ids but those it refers to itself, which ``name`` keeps apart from other figures';
    ``description`` is read aloud. Equal figures give equal text.
    """
    buffer = io.StringIO()
    with style(), mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg")
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r"<style.*?</style>", "", drawing, flags=re.DOTALL)  # would hit the whole page
    drawing = re.sub(r'<g id="[^"]*"', "<g", drawing)
    drawing = re.sub(
        r"#[0-9a-f]{6}\b", lambda found: THEME.get(found.group(), found.group()), drawing
    )
    opening = f'<svg role="img" aria-label="{html.escape(description)}"'
    return drawing.replace("<svg", opening, 1).strip()


def save_png(figure: Figure, path: Path) -> None:
    """Write ``figure`` at twice screen resolution, light; equal figures give equal bytes."""
    with style():
        figure.savefig(path, format="png", dpi=200, metadata={"Software": None})


# --- axes -------------------------------------------------------------------------------------
def axes_at(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place of ``figure`` in inches."""
    wide, tall = figure.get_size_inches()
    return figure.add_axes((left / wide, bottom / tall, width / wide, height / tall))


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
        axes.append(axes_at(figure, x, y, wide, tall))
    return figure, axes


def bare(axes: Axes, layout: Layout, grid: str = "x", share: float = 1.0) -> None:
    """The look of all axes: no spine at the left and no ``grid`` lines of one direction.

    ``share`` is the size of the tick labels, of the layout's font.
    """
    axes.tick_params(labelsize=share * layout.font, which="both")
    axes.grid(axis="y" if grid == "y" else "x", visible=False)
    axes.spines["left"].set_visible(False)


def title(axes: Axes, words: str, layout: Layout, pad: float = 6) -> None:
    """A title over the left end of ``axes``."""
    axes.set_title(words, loc="left", fontsize=layout.font, weight="bold", pad=pad)


def heading(axes: Axes, words: str, layout: Layout) -> None:
    """A title over one of several panels, and the look that they share."""
    title(axes, words, layout, pad=8)
    bare(axes, layout, share=0.92)
    axes.xaxis.label.set_fontsize(layout.font)


def beside(
    axes: Axes,
    words: str,
    place: float,
    layout: Layout,
    side: str,
    va: str = "bottom",
    rise: float = 2,
) -> None:
    """``words`` at the upper end of a vertical line at ``place``; ``side`` is their alignment."""
    axes.annotate(
        words, (place, 1.0), xycoords=axes.get_xaxis_transform(), textcoords="offset points",
        xytext=(-3 if side == "right" else 3, rise), ha=side, va=va, color=MUTED,
        fontsize=layout.font,
    )  # fmt: skip


Marks = Iterable[tuple[str, Mapping[str, Any]]]
"""Labels of a legend, each with the properties of its line or mark."""


def handles(marks: Marks) -> list[Line2D]:
    """The lines of a legend, in ink where no colour is said."""
    return [Line2D([], [], **{"color": INK, "label": label, **look}) for label, look in marks]


def legend(figure: Figure, layout: Layout, columns: int, marks: Marks | None = None) -> None:
    """A key at the upper left of ``figure``, of what is drawn where there are no ``marks``."""
    key = figure.legend(
        handles=None if marks is None else handles(marks), loc="upper left", ncols=columns,
        frameon=False, fontsize=layout.font, bbox_to_anchor=(0, 1), borderaxespad=0.2,
        columnspacing=1.4, handlelength=1.4, handletextpad=0.5,
    )  # fmt: skip
    for name in key.get_texts():
        name.set_parse_math(False)


def ticks(axis: Axis, places: Sequence[float], names: Sequence[str]) -> None:
    """``names`` at ``places`` of the axis, and no other ticks."""
    axis.set_major_locator(FixedLocator(places))
    axis.set_major_formatter(FixedFormatter(names))
    axis.set_minor_locator(NullLocator())


def size_axis(axes: Axes, sizes: Sequence[int], label: str, layout: Layout) -> None:
    """A logarithmic axis of the ascending ``sizes``, at most five of them named."""
    axes.set_xscale("log")
    shown = [sizes[index] for index in _few(len(sizes))]
    ticks(axes.xaxis, shown, [text.size(size) for size in shown])
    axes.set_xlabel(label, fontsize=layout.font)


def _few(count: int) -> list[int]:
    """At most five of ``count`` places, first and last among them; at even steps if there are."""
    for step in (1, 2, 3, 4):
        if (count - 1) % step == 0 and (count - 1) // step < 5:
            return list(range(0, count, step))
    return [int(place) for place in np.linspace(0, count - 1, 5).round()]


# --- names next to the lines they belong to ---------------------------------------------------
def separated(positions: Sequence[float], gap: float) -> list[float]:
    """Move ``positions`` (in [0, 1]) as little as possible until neighbours are ``gap`` apart.

    Less i·gap for the i-th smallest, it is an isotonic regression (Dwyer, Marriott, Stuckey 2006).
    """
    order = np.argsort(positions, kind="stable")
    steps = gap * np.arange(len(order))
    free = isotonic_regression(np.asarray(positions, dtype=float)[order] - steps).x
    moved = np.clip(free, 0.0, max(0.0, 1.0 - gap * (len(order) - 1))) + steps
    return [float(value) for value in moved[np.argsort(order)]]


@dataclass(frozen=True)
class Label:
    """A name to be written right of the axes, at the height of a value."""

    value: float
    name: str
    look: Look
    rank: str = ""
    bold: bool = False


def direct_labels(axes: Axes, labels: Sequence[Label], layout: Layout) -> None:
    """Write names right of ``axes`` with the candidate's mark, moved apart, joined by leaders."""
    wide, tall = inches(axes)
    to_axes, end = axes.transData - axes.transAxes, axes.get_xlim()[1]
    starts = [float(to_axes.transform((end, label.value))[1]) for label in labels]
    starts = np.clip(starts, 0, 1).tolist()
    heights = separated(starts, 1.5 * layout.font / 72 / tall)
    em = layout.font / 72 / wide
    for label, start, height in zip(labels, starts, heights, strict=True):
        axes.plot(
            [1.0, 1 + 1.1 * em, 1 + 1.5 * em], [start, height, height],
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


def inches(axes: Axes) -> tuple[float, float]:
    """Width and height of ``axes``."""
    box = axes.get_window_extent()
    figure = axes.get_figure(root=True)
    assert figure is not None
    return box.width / figure.dpi, box.height / figure.dpi
