"""The figures of the diagnostics show the tables' numbers."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from lensllm.report import diagnostic_figures, diagnostic_tables, style
from lensllm.spectra.spectrum import standard_error

BUDGETS = (400, 1600, 3200)


@pytest.fixture(name="budgeted")
def _budgeted(make):
    return make(budgets=BUDGETS)


def test_lines_are_the_scores(budgeted):
    """RelAcc and Pearson of the default predictor, thick and in the first colour."""
    drawing = diagnostic_figures.budgets(budgeted)
    scores = budgeted.all_scores[budgeted.all_scores["predictor"] == "stack"]
    for axes, column in zip(drawing.axes, ("rel_acc", "pearson"), strict=True):
        (line,) = [line for line in axes.get_lines() if line.get_linewidth() == 2.2]
        assert style.PALETTE[0] == to_hex(line.get_color())
        assert list(BUDGETS) == list(line.get_xdata())
        assert list(scores[column]) == list(line.get_ydata())


def test_the_axis_holds_negative_correlations(budgeted):
    """A predictor that is worse than chance is not cut off."""
    bottom, top = diagnostic_figures.budgets(budgeted).axes[1].get_ylim()
    assert bottom < budgeted.all_scores["pearson"].min()
    assert top > 1


@pytest.mark.parametrize("layout", [style.WIDE, style.NARROW])
def test_names_neither_collide_nor_leave_the_figure(budgeted, layout):
    """Predictors are named beside their lines."""
    drawing = diagnostic_figures.budgets(budgeted, layout)
    canvas = FigureCanvasAgg(drawing)
    canvas.draw()
    texts = [text for text in drawing.axes[-1].texts if text.get_position()[0] > 1]
    assert {"stack", "rectified", "sub_tuning"} == {text.get_text() for text in texts}
    extents = sorted((t.get_window_extent() for t in texts), key=lambda box: box.y0)
    assert all(lower.y1 <= upper.y0 for lower, upper in itertools.pairwise(extents))
    assert max(box.x1 for box in extents) <= drawing.bbox.x1


def test_a_predictor_that_was_skipped_at_a_budget_leaves_a_gap(budgeted):
    """Nothing is drawn where nothing was predicted."""
    scores = budgeted.all_scores
    gone = (scores["predictor"] == "rectified") & (scores["budget"] == 3200)
    drawing = diagnostic_figures.budgets(replace(budgeted, all_scores=scores[~gone]))
    ends = [
        line.get_ydata()[-1] for line in drawing.axes[0].get_lines() if line.get_marker() != "None"
    ]
    assert any(np.isnan(np.asarray(ends, dtype=float)))


def test_decay_is_the_spectrums_own(data):
    """The curve of a candidate is F(t)/F(0) of its spectrum."""
    right = diagnostic_figures.kernels(data).axes[1]
    line = next(line for line in right.get_lines() if to_hex(line.get_color()) == style.PALETTE[0])
    spectrum = data.spectra[data.candidates[0]]
    expected = spectrum.share(line.get_xdata())
    np.testing.assert_allclose(expected, line.get_ydata())


def test_named_candidates_have_a_band_of_one_standard_error(make):
    """The crowd has none: fifty bands are one grey surface."""
    data = make([(f"m{i:02d}", 10**6) for i in range(12)])
    right = diagnostic_figures.kernels(data).axes[1]
    assert len(right.collections) == len(style.PALETTE)
    band = next(b for b in right.collections if to_hex(b.get_facecolor()[0]) == style.PALETTE[0])
    corners = band.get_paths()[0].vertices
    name = next(n for n, look in style.looks(data).items() if look.colour == style.PALETTE[0])
    times = np.unique(corners[:, 0])
    error = standard_error(*diagnostic_tables.probes(data, name), times)
    share = data.spectra[name].share(times)
    for place in (0, 40, 80, 159):
        heights = corners[corners[:, 0] == times[place], 1]
        assert heights.max() == pytest.approx(share[place] + error[place])
        assert heights.min() == pytest.approx(max(share[place] - error[place], 0))


def test_kernels_are_drawn_without_a_trained_cell(data):
    """Zero-shot cells have no flow time; the kernels' own time scale is used."""
    zero = replace(data, cells=data.cells[data.cells["size"] == 0])
    low, high = diagnostic_figures.kernels(zero).axes[1].get_xlim()
    assert 0 < low < high


@pytest.mark.parametrize(("layout", "columns"), [(style.WIDE, 3), (style.NARROW, 1)])
def test_drift_panels_stand_side_by_side_or_stacked(data, layout, columns):
    """On a phone the panels are stacked."""
    drawing = diagnostic_figures.drift(data, layout)
    assert columns == len({round(axes.get_position().x0, 6) for axes in drawing.axes})
    line = drawing.axes[0].get_lines()[0]
    assert list(data.drift["target_length_ks"]) == list(line.get_ydata())
