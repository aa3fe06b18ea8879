"""The main figure shows what the tables say."""

import itertools
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.text import Text

from lensllm.laws.fit import evaluate
from lensllm.report import curve_figure, style

LONG = [(f"organisation/a-model-with-a-very-long-name-{i:02d}-instruct", 10**9) for i in range(50)]


def lines(drawing, colour, **wanted):
    """Lines of ``colour`` whose properties equal ``wanted``."""
    return [
        line
        for line in drawing.axes[0].get_lines()
        if to_hex(line.get_color()) == colour
        and all(getattr(line, f"get_{name}")() == value for name, value in wanted.items())
    ]


def key(drawing):
    """What the marks are said to mean."""
    return [text.get_text() for text in drawing.legends[0].get_texts()]


def boxes(drawing, axes_index=0):
    """Extents of the texts right of the axes, in pixels, lowest first."""
    canvas = FigureCanvasAgg(drawing)
    canvas.draw()
    axes = drawing.axes[axes_index]
    texts = [text for text in axes.texts if type(text) is Text and text.get_position()[0] > 1]
    extents = [text.get_window_extent(canvas.get_renderer()) for text in texts]
    return sorted(extents, key=lambda box: box.y0)


def test_law_is_solid_to_the_budget_and_dashed_to_the_target(data):
    """Where the predictor is a law its line is drawn, and ends at its value at the target."""
    data = replace(data, predictor="rectified")
    name = data.candidates[0]
    drawing = curve_figure.curves(data)
    known, ahead = lines(drawing, style.PALETTE[0])[:2]
    assert (known.get_linestyle(), ahead.get_linestyle()) == ("-", "--")
    assert data.budget == pytest.approx(2 ** known.get_xdata()[-1])
    assert data.budget == pytest.approx(2 ** ahead.get_xdata()[0])
    assert data.target == pytest.approx(2 ** ahead.get_xdata()[-1])
    assert evaluate(data.fit(name), data.target) == pytest.approx(ahead.get_ydata()[-1])


def test_without_a_law_points_are_joined_and_lead_to_the_prediction(data):
    """Solid through what was measured, dashed from the last of it to what is predicted."""
    name = data.candidates[0]
    curve = data.curve(name)
    paid = curve[(curve.index > 0) & (curve.index <= data.budget)]
    solid, dashed = lines(curve_figure.curves(data), style.PALETTE[0])[:2]
    assert (solid.get_linestyle(), dashed.get_linestyle()) == ("-", "--")
    assert list(paid) == list(solid.get_ydata())
    assert [data.budget, data.target] == pytest.approx(2 ** np.array(dashed.get_xdata()))
    assert [paid.iloc[-1], data.ranking["predicted"].iloc[0]] == list(dashed.get_ydata())


def test_the_curve_of_a_dropped_candidate_simply_ends(data, raced):
    """Nobody followed it, so no line leads on; its prediction still stands at the target."""
    data = raced(data)
    last = data.candidates[-1]
    drawing = curve_figure.curves(data)
    drawn = lines(drawing, style.looks(data)[last].colour)
    (solid,) = [line for line in drawn if line.get_linewidth() == 1.3]
    assert data.dropped[last] == pytest.approx(2 ** solid.get_xdata()[-1])
    assert solid.get_xdata()[-1] == max(
        line.get_xdata()[-1] for line in drawn if line.get_linewidth() < 1.5 and line.get_clip_on()
    )
    assert [line for line in drawn if line.get_linewidth() == 4.5]


def test_a_few_runs_at_a_size_are_dots(make):
    """Every one of them up to the target, and nothing where a size was run once."""
    data = make(seed_count=3)
    name = data.candidates[0]
    once = (data.cells["size"] == 400) & (data.cells["repeat"] > 0)
    data = replace(data, cells=data.cells[~once])
    drawing = curve_figure.curves(data)
    (dots,) = lines(drawing, style.PALETTE[0], marker=".")
    assert {100, 200, 800, 1600, 3200, 6400} == set((2 ** dots.get_xdata()).round())
    runs = data.runs(name)
    assert sorted(runs[(runs.index > 0) & (runs.index != 400)]) == sorted(dots.get_ydata())
    assert "80 % of runs" not in key(drawing)


def test_very_many_runs_at_a_size_are_one_line(make):
    """From the first to the last decile; a thousand dots would hide each other and fill the page."""
    data = make(seed_count=50)
    few = (data.cells["size"] == 800) & (data.cells["repeat"] >= 20)
    data = replace(data, cells=data.cells[~few])
    drawing = curve_figure.curves(data)
    (dots,) = lines(drawing, style.PALETTE[0], marker=".")
    assert list((2 ** dots.get_xdata()).round()) == 20 * [800]
    (bars,) = [
        drawn
        for drawn in drawing.axes[0].collections
        if style.PALETTE[0] == to_hex(drawn.get_colors()[0])
    ]
    runs = data.runs(data.candidates[0])
    expected = [
        ((np.log2(size), low), (np.log2(size), high))
        for size in (100, 200, 400, 1600, 3200, 6400)
        for low, high in [np.quantile(runs[size], [0.1, 0.9])]
    ]
    np.testing.assert_allclose(bars.get_segments(), expected)
    assert "80 % of runs" in key(drawing)


def test_grey_lines_lead_to_their_predictions(make, raced):
    """All solid ones and all dashed ones are one drawing each; who was dropped has no dashed one."""
    data = raced(make(LONG))
    looks = style.looks(data)
    grey = [name for name in data.candidates if looks[name] is style.CROWD]
    solid, dashed = (
        [segment.tolist() for segment in drawn.get_segments()]
        for drawn in curve_figure.curves(data).axes[0].collections
        if to_hex(drawn.get_colors()[0]) == style.OTHERS
    )
    for name, line in zip(grey, solid, strict=True):
        paid = data.curve(name).loc[1 : data.budget]
        assert [[np.log2(size), loss] for size, loss in paid.items()] == line
    followed = [name for name in grey if name not in data.dropped]
    assert len(grey) - 3 == len(followed)
    ends = [[np.log2(data.target), data.predicted[name]] for name in followed]
    assert ends == [line[-1] for line in dashed]


def test_only_losses_that_are_drawn_set_the_scale(make):
    """Of a grey curve the zero-shot loss is not shown, so it must not squeeze the others."""
    data = make(LONG)
    grey = [name for name, look in style.looks(data).items() if look is style.CROWD]
    cells = data.cells.copy()
    cells.loc[cells["candidate"].isin(grey) & (cells["size"] == 0), "bits_per_byte"] *= 30
    expected = curve_figure.curves(data).axes[0].get_ylim()
    assert expected == curve_figure.curves(replace(data, cells=cells)).axes[0].get_ylim()


def test_the_first_choice_is_bold(data):
    """It need not be the first of the ranking."""
    rows = data.all_predictions
    unsure = rows["cautious"].where(rows["candidate"] != data.candidates[0], 99.0)
    drawing = curve_figure.curves(replace(data, all_predictions=rows.assign(cautious=unsure)))
    names = [text for text in drawing.axes[0].texts if text.get_position()[0] > 1]
    bold = [text.get_text() for text in names if text.get_weight() == "bold"]
    assert [f"2  {data.candidates[1]}"] == bold


def test_interval_and_truth_stand_at_the_target(data):
    """The first candidate's bar spans its 80 % interval; the star is the measured loss."""
    row = data.ranking.iloc[0]
    drawing = curve_figure.curves(data)
    bars = [list(line.get_ydata()) for line in lines(drawing, style.PALETTE[0], linewidth=4.5)]
    assert [[row["low"], row["high"]]] == bars
    stars = [line for line in drawing.axes[0].get_lines() if line.get_marker() == "*"]
    assert sorted(data.truth.values()) == sorted(float(star.get_ydata()[0]) for star in stars)


def test_measured_points_up_to_the_budget_are_filled(data):
    """What was not used for the fit is hollow."""
    curve = data.curve(data.candidates[0])
    marked = lines(curve_figure.curves(data), style.PALETTE[0], marker="o", markersize=5)
    filled, hollow = (
        [line for line in marked if to_hex(line.get_markerfacecolor()) == face]
        for face in (style.PALETTE[0], style.PAPER)
    )
    paid = curve[(curve.index > 0) & (curve.index <= data.budget)]
    assert list(paid) == list(filled[0].get_ydata())
    assert [curve[6400]] == list(hollow[0].get_ydata())


def test_without_a_truth_there_is_no_star(make):
    """Nothing is drawn that was not measured."""
    drawing = curve_figure.curves(make(truth=False))
    assert not [line for line in drawing.axes[0].get_lines() if line.get_marker() == "*"]
    assert "truth" not in key(drawing)


@pytest.mark.parametrize("layout", [style.WIDE, style.NARROW])
@pytest.mark.parametrize("candidates", [None, LONG])
def test_labels_neither_collide_nor_leave_the_figure(make, layout, candidates):
    """Names stay readable with fifty long ones, on a phone too."""
    drawing = curve_figure.curves(make(candidates) if candidates else make(), layout)
    extents = boxes(drawing)
    assert (8 if candidates else 6) == len(extents)
    for lower, upper in itertools.pairwise(extents):
        assert lower.y1 <= upper.y0
    assert max(box.x1 for box in extents) <= drawing.bbox.x1


@pytest.mark.parametrize("layout", [style.WIDE, style.NARROW])
def test_sizes_on_the_axis_do_not_touch(data, layout):
    """Tick labels keep apart; zero, budget and target are always among them."""
    drawing = curve_figure.curves(data, layout)
    canvas = FigureCanvasAgg(drawing)
    canvas.draw()
    labels = drawing.axes[0].get_xticklabels()
    assert {"0", "12,800"} <= {label.get_text() for label in labels}
    extents = [label.get_window_extent(canvas.get_renderer()) for label in labels]
    for left, right in itertools.pairwise(extents):
        assert left.x1 < right.x0


def test_one_far_zero_shot_loss_does_not_flatten_the_curves(data):
    """The curves keep at least half of the height; what is off the scale becomes an arrow."""
    cells = data.cells.copy()
    cells.loc[cells["size"] == 0, "bits_per_byte"] *= 30
    drawing = curve_figure.curves(replace(data, cells=cells))
    low, high = np.log(drawing.axes[0].get_ylim())
    trained = np.log(cells.loc[cells["size"] > 0, "bits_per_byte"])
    assert (trained.max() - trained.min()) / (high - low) > 0.4
    arrows = [line for line in drawing.axes[0].get_lines() if not line.get_clip_on()]
    tops = [line for line in arrows if np.exp(high) == pytest.approx(line.get_ydata()[0])]
    assert len(tops) >= 6


def test_one_endless_interval_does_not_flatten_the_curves(data):
    """An interval up to a thousand is cut at the frame."""
    wide = data.predictions.assign(high=1000.0)
    assert curve_figure.curves(replace(data, all_predictions=wide)).axes[0].get_ylim()[1] < 5


@pytest.mark.parametrize(
    "change",
    [
        lambda d: {"cells": d.cells[d.cells["size"] == 0]},
        lambda d: {"cells": d.cells.iloc[:0]},
        lambda d: {"cells": d.cells[d.cells["size"] == 400]},
        lambda d: {
            "budget": d.target,
            "all_predictions": d.all_predictions.assign(budget=d.target),
        },
        lambda d: {"fits": d.fits.iloc[:0]},
        lambda d: {
            "all_predictions": d.all_predictions.assign(predicted=np.nan, low=np.nan, high=np.nan)
        },
    ],
)
def test_little_data_still_gives_a_figure(data, change, tmp_path):
    """Only zero-shot losses, no cells, one size, nothing to extrapolate, no fits, no numbers."""
    style.save_png(curve_figure.curves(replace(data, **change(data))), tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_png_bytes_depend_on_the_data_only(data, tmp_path):
    """Two renderings are one file."""
    for name in ("a.png", "b.png"):
        style.save_png(curve_figure.curves(data), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_pyplot_is_never_loaded():
    """Its figures are global to the process and not safe in threads."""
    code = "import sys, lensllm.report.page; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_names_are_not_mathematics(make):
    """Dollar signs and backslashes are shown, not typeset, and never crash the figure."""
    name = r"a$\frac$b"
    drawing = style.svg(curve_figure.curves(make([(name, 10**6), ("plain", 10**6)])), "one", "d")
    assert name in drawing
