"""Ranks, agreement and transition along the values of every key."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from lensllm.report import style
from lensllm.report.ablation_figure import figure
from tests.lensllm.report.ablated import TARGET, ablated


def lines(axes) -> list:
    """Those in the coordinates of the data."""
    return [line for line in axes.get_lines() if line.get_transform() == axes.transData]


@pytest.mark.parametrize("keys", [1, 2, 4])
def test_a_column_of_three_panels_for_every_key(keys: int):
    data = ablated(keys=keys)
    titles = [axes.get_title(loc="left") for axes in figure(data).axes]
    assert [t for t in titles if t] == list(data.keys["key"])
    assert len(titles) == 3 * keys


def test_values_ascend_with_the_pipelines_own_shaded():
    ranks, _, _, rate, *_ = figure(ablated()).axes
    assert [t.get_text() for t in ranks.get_xticklabels()] == ["3", "5", "8"]
    assert [t.get_text() for t in rate.get_xticklabels()] == ["0.0005", "0.001", "0.002"]
    (band,) = rate.patches
    assert band.get_x() < 1 < band.get_x() + band.get_width()


def test_words_begin_with_the_pipelines_own():
    source, *_, flag = figure(ablated(keys=4)).axes[6::3]
    assert source.get_xticklabels()[0].get_text().startswith("builtin")
    assert [t.get_text() for t in flag.get_xticklabels()] == ["true", "false"]


def test_lines_are_the_ranks_at_the_points_that_move_the_key_alone():
    data = ablated()
    drawn = figure(data).axes[3]  # the learning rate's
    ranks = data.candidates.set_index(["candidate", "point"])["rank"]
    expected = {name: [ranks[name, p] for p in (1, 0, 2)] for name in data.candidate_names}
    by_colour = {look.colour: name for name, look in data.looks.items()}
    found = {by_colour[to_hex(line.get_color())]: list(line.get_ydata()) for line in lines(drawn)}
    assert expected == found
    assert drawn.yaxis_inverted()


def test_agreement_is_that_of_the_points():
    data = ablated()
    drawn = figure(data).axes[1]
    points = data.points.loc[[3, 0, 6]]  # τ = 3, 5, 8
    found = [list(line.get_ydata()) for line in lines(drawn)]
    assert found == [list(points[c]) for c in ("pearson", "kendall", "truth_kendall")]


def test_without_a_truth_the_order_alone_is_drawn():
    data = ablated(truth=False)
    (line,) = lines(figure(data).axes[1])
    assert list(line.get_ydata()) == list(data.points.loc[[3, 0, 6], "kendall"])


def test_transitions_stay_within_what_can_be_seen():
    data = ablated(count=12)
    drawn = figure(data).axes[5]
    sizes = np.concatenate([line.get_ydata() for line in lines(drawn)])
    assert sizes.min() >= 100
    assert sizes.max() <= TARGET
    assert list(drawn.get_yticks()) == [100, 3200, TARGET]


def test_a_failed_point_is_a_gap():
    data = ablated(failing=(1,))
    drawn = figure(data).axes[3]
    assert all(np.isnan(line.get_ydata()[0]) for line in lines(drawn))
    assert all(np.isfinite(line.get_ydata()[1:]).all() for line in lines(drawn))


def test_of_fifty_candidates_few_stand_out_the_choices_among_them():
    data = ablated(count=50)
    named = [name for name, look in data.looks.items() if look is not style.CROWD]
    assert len(named) == len(style.PALETTE)
    assert set(data.points["choice"]) <= set(named)
    drawn = figure(data).axes[0]
    assert len(lines(drawn)) == 50
    assert sum(to_hex(line.get_color()) == style.OTHERS for line in lines(drawn)) == 42


@pytest.mark.parametrize("layout", [style.WIDE, style.NARROW])
@pytest.mark.parametrize("count", [6, 50])
def test_names_neither_collide_nor_leave_the_figure(count: int, layout: style.Layout):
    drawing = figure(ablated(count=count, keys=3), layout)
    FigureCanvasAgg(drawing).draw()
    for axes in drawing.axes:
        extents = sorted((t.get_window_extent() for t in axes.texts), key=lambda box: box.y0)
        assert all(lower.y1 <= upper.y0 for lower, upper in itertools.pairwise(extents))
        assert all(drawing.bbox.x0 <= box.x0 and box.x1 <= drawing.bbox.x1 for box in extents)
    labels = [t.get_window_extent() for t in drawing.texts]
    assert min(box.x0 for box in labels) >= drawing.bbox.x0
    ticks = [t.get_window_extent() for a in drawing.axes for t in a.get_yticklabels()]
    assert max(box.x1 for box in labels) <= min(box.x0 for box in ticks if box.width)
