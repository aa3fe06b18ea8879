"""One look for every figure: palette, fonts, and SVG whose colours follow the page's theme."""

from __future__ import annotations

import html
import io
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import matplotlib.style
from matplotlib.figure import Figure

from lensllm.report.data import ReportData

INK, MUTED, FAINT, SHADE, PAPER = "#1f2328", "#66707b", "#d5dae0", "#f4f6f8", "#ffffff"
OTHERS = "#b3bac2"
# Okabe and Ito (2008), the ones that stand out on white first, yellow darkened to be seen on it
PALETTE = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#111111", "#8c7a00",
)  # fmt: skip
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
    """How one candidate is drawn everywhere; ``index`` is None for those in the grey crowd."""

    index: int | None
    colour: str
    marker: str


CROWD = Look(None, OTHERS, "o")


def looks(data: ReportData) -> dict[str, Look]:
    """A look for every candidate: the choice, the true best and the best ranked stand out."""
    best = [] if not data.truth else [min(data.truth, key=lambda name: data.truth[name])]
    return looks_of(data.candidates, [data.choice, *best])


def looks_of(candidates: Sequence[str], first: Sequence[str]) -> dict[str, Look]:
    """A look for every candidate; of too many for it the ``first`` and the foremost stand out."""
    named = candidates
    if len(candidates) > len(PALETTE):
        standing_out = list(dict.fromkeys([*first, *candidates]))[: len(PALETTE)]
        named = [name for name in candidates if name in standing_out]
    own = {name: Look(index, PALETTE[index], MARKERS[index]) for index, name in enumerate(named)}
    return {name: own.get(name, CROWD) for name in candidates}


def svg(figure: Figure, name: str, description: str) -> str:
    """``figure`` as an ``<svg>`` element to be inlined: no ids but those it refers to itself.

    ``name`` keeps those ids apart from other figures of the page; ``description`` is read aloud.
    Equal figures give equal text.
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


def png(figure: Figure, path: Path) -> None:
    """Write ``figure`` at twice screen resolution, light; equal figures give equal bytes."""
    with style():
        figure.savefig(path, format="png", dpi=200, metadata={"Software": None})
