"""Scores against the budget."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from lensllm.report import budget_figure, style

BUDGETS = (400, 1600, 3200)


@pytest.fixture(name="budgeted")
def _budgeted(make):
    return make(budgets=BUDGETS)


def test_lines_are_the_scores(budgeted):
    """RelAcc and Pearson of the default predictor, thick and in the first colour."""
    drawing = budget_figure.budgets(budgeted)
    scores = budgeted.all_scores[budgeted.all_scores["predictor"] == "stack"]
    for axes, column in zip(drawing.axes, ("rel_acc", "pearson"), strict=True):
        (line,) = [line for line in axes.get_lines() if line.get_linewidth() == 2.2]
        assert style.PALETTE[0] == to_hex(line.get_color())
        assert list(BUDGETS) == list(line.get_xdata())
        assert list(scores[column]) == list(line.get_ydata())


def test_the_axis_holds_negative_correlations(budgeted):
    """A predictor that is worse than chance is not cut off."""
    bottom, top = budget_figure.budgets(budgeted).axes[1].get_ylim()
    assert bottom < budgeted.all_scores["pearson"].min()
    assert top > 1


@pytest.mark.parametrize("layout", [style.WIDE, style.NARROW])
def test_names_neither_collide_nor_leave_the_figure(budgeted, layout):
    """Predictors are named beside their lines."""
    drawing = budget_figure.budgets(budgeted, layout)
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
    drawing = budget_figure.budgets(replace(budgeted, all_scores=scores[~gone]))
    ends = [
        line.get_ydata()[-1] for line in drawing.axes[0].get_lines() if line.get_marker() != "None"
    ]
    assert any(np.isnan(np.asarray(ends, dtype=float)))
