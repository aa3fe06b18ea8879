"""The figures of the curvature show the tables' numbers."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from lensllm.report import curvature_figures, style


def test_bound_stacks_its_terms(data):
    """Both bars of a cell together are as long as the bound."""
    axes = curvature_figures.bound(data).axes[0]
    second = axes.patches[len(axes.patches) // 2 :]
    ends = sorted(bar.get_x() + bar.get_width() for bar in second)
    assert sorted(data.bounds["bound"]) == pytest.approx(ends)


def test_what_is_known_without_the_bound_stands_beside_it(data):
    """The lower of C and ln V, where a bound says nothing."""
    bounds = data.bounds.copy()
    bounds.loc[bounds["candidate"] == data.candidates[0], "loss_bound"] = 5.0
    axes = curvature_figures.bound(replace(data, bounds=bounds)).axes[0]
    (marks,) = [line for line in axes.get_lines() if line.get_marker() == "|"]
    assert [5.0, 5.0, *[7.6] * 10] == list(marks.get_xdata())


def test_many_bounds_keep_the_largest_cell_of_each_candidate(make):
    """Fifty candidates of two cells would be a hundred bars."""
    data = make([(f"m{i:02d}", 10**6) for i in range(50)], examined=50)
    axes = curvature_figures.bound(data).axes[0]
    assert len(axes.patches) == 2 * 24


def test_the_area_under_a_density_is_one(data):
    """Whatever the nodes are, on the axis on which they are broadened."""
    places = np.linspace(-12, 12, 4001)
    for rows in data.densities.values():
        values = curvature_figures.broadened(rows, 0.1, places)
        assert np.trapezoid(values, places) == pytest.approx(1)


def test_a_node_is_broadened_by_a_share_of_itself():
    """Far from 0, where asinh is the logarithm, it falls by e^(−1/2) at e^(±.3) times the node."""
    rows = pd.DataFrame({"eigenvalue": [50.0], "weight": [1.0]})
    places = np.arcsinh(50 * np.exp([-0.3, 0.0, 0.3]) / 0.01)
    values = curvature_figures.broadened(rows, 0.01, places)
    assert values / values[1] == pytest.approx(np.exp([-0.5, 0, -0.5]), rel=1e-4)


def test_density_draws_each_candidate_in_its_colour(data):
    """One line each, of what was measured only, from the smallest node to the largest."""
    *some, missing = data.densities
    drawn = replace(data, densities={name: data.densities[name] for name in some})
    axes = curvature_figures.density(drawn).axes[0]
    looks = style.looks(data)
    assert {looks[name].colour for name in some} == {
        to_hex(line.get_color()) for line in axes.get_lines()
    }
    assert looks[missing].colour not in {to_hex(line.get_color()) for line in axes.get_lines()}
    low, high = np.sinh(axes.get_xlim()) * curvature_figures.linear_scale(drawn)
    assert low < -9 < 44 < high


def test_ticks_of_the_density_are_eigenvalues(data):
    """Zero and powers of ten on both sides, where the line has them."""
    axes = curvature_figures.density(data).axes[0]
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["−10", "−1", "0", "1", "10", "100"]
    # 45 is the largest eigenvalue, a hundredth of it nearest to 1, up to which the axis is linear
    assert np.arcsinh([-10, -1, 0, 1, 10, 100]) == pytest.approx(axes.get_xticks())


@pytest.mark.parametrize("layout", [style.WIDE, style.NARROW])
def test_a_crowd_has_one_name(make, layout):
    """Eight names and the others'."""
    data = make([(f"m{i:02d}", 10**6) for i in range(50)], examined=50)
    drawing = curvature_figures.density(data, layout)
    names = [text.get_text() for text in drawing.legends[0].get_texts()]
    assert len(names) == 9
    assert names[-1] == "the others"
    assert len(drawing.axes[0].get_lines()) == 50


def drawn(axes, colour, **wanted):
    """Lines of ``colour`` within the axes whose properties equal ``wanted``."""
    return [
        line
        for line in axes.get_lines()
        if to_hex(line.get_color()) == colour
        and all(getattr(line, f"get_{name}")() == value for name, value in wanted.items())
    ]


def row(data, name):
    """Its height below the curves."""
    return -data.candidates.index(name)


def points(axes, height):
    """(place, marker, filled) of what is drawn at ``height``."""
    found = []
    for line in axes.get_lines():
        x, y = line.get_xdata(), line.get_ydata()
        if len(x) == 1 and x[0] > 0 and y[0] == pytest.approx(height):
            found.append((x[0], line.get_marker(), to_hex(line.get_markerfacecolor())))
    return found


def test_both_panels_have_one_axis(data):
    """What meets above stands below it."""
    above, below = curvature_figures.crossing(data).axes[::-1]
    assert above.get_xlim() == below.get_xlim()
    assert above.get_position().x0 == pytest.approx(below.get_position().x0)
    assert above.get_position().x1 == pytest.approx(below.get_position().x1)


def test_the_power_law_goes_through_what_was_measured(data):
    """Its line between the sizes examined, and the cells' own means on it."""
    above = curvature_figures.crossing(data).axes[1]
    name, colour = data.candidates[0], style.PALETTE[0]
    (line,) = drawn(above, colour, linestyle="-")
    (dots,) = drawn(above, colour, linestyle="None")
    assert [800, 3200] == list(line.get_xdata()) == list(dots.get_xdata())
    terms = data.bounds.loc[data.bounds["candidate"] == name, "curvature_term"]
    assert list(dots.get_ydata()) == pytest.approx(terms)
    assert list(line.get_ydata()) == pytest.approx(terms)


def test_the_remainder_is_drawn_in_the_same_unit(data):
    """n^(−3/4) from end to end."""
    above = curvature_figures.crossing(data).axes[1]
    (line,) = drawn(above, style.INK)
    assert line.get_ydata() == pytest.approx(line.get_xdata() ** -0.75)


def test_a_crossing_within_the_axis_has_its_place(data):
    """900, with the interval from 300 to 5,000, below the middle of the row."""
    below = curvature_figures.crossing(data).axes[0]
    name = "opt-mini-prose"
    look, height = style.looks(data)[name], row(data, name) - 0.2
    assert points(below, height) == [(900.0, look.marker, look.colour)]
    (interval,) = [
        line
        for line in drawn(below, look.colour)
        if len(line.get_xdata()) == 2 and line.get_ydata()[0] == pytest.approx(height)
    ]
    assert list(interval.get_xdata()) == [300, 5000]


def test_arrows_point_to_what_lies_beyond(data):
    """Below one example to the left, never to the right; an unknown one is not drawn."""
    below = curvature_figures.crossing(data).axes[0]
    low, high = below.get_xlim()
    height = row(data, "t5-mini-docs")
    assert [(high, ">")] == [point[:2] for point in points(below, height - 0.2)]
    assert points(below, height + 0.2) == [(low, "<", style.PAPER)]
    assert points(below, row(data, "neo-micro-topics") - 0.2) == []


def test_the_laws_transition_is_a_stroke_across_the_row(data):
    """500 for the first candidate, and an arrow where it lies beyond the axis."""
    below = curvature_figures.crossing(data).axes[0]
    assert points(below, row(data, "qwen3-mini-mix")) == [(500.0, "|", style.INK)]
    assert points(below, row(data, "gpt2-nano-docs"))[0][:2] == (below.get_xlim()[1], ">")


@pytest.mark.parametrize("layout", [style.WIDE, style.NARROW])
def test_fifty_candidates_have_two_dozen_rows(make, layout):
    """The foremost; all that stand out have lines, and the others are one drawing."""
    data = make([(f"m{i:02d}", 10**6) for i in range(50)], examined=50)
    below, above = curvature_figures.crossing(data, layout).axes
    names = [label.get_text() for label in below.get_yticklabels()]
    assert data.candidates[:24] == names
    solid = [line for line in above.get_lines() if line.get_linestyle() == "-"]
    assert len(solid) == 1 + len(style.PALETTE)  # and the budget's
    (crowd,) = above.collections
    assert len(crowd.get_segments()) == 50 - len(style.PALETTE)


def test_candidates_without_a_crossing_have_no_row(data):
    """Such as those whose curvature failed but for one size."""
    rows = data.crossings
    below = curvature_figures.crossing(
        replace(data, crossings=rows[rows["candidate"] != "t5-mini-docs"])
    ).axes[0]
    names = [label.get_text() for label in below.get_yticklabels()]
    assert [name for name in data.candidates if name != "t5-mini-docs"] == names


def test_the_axis_reaches_down_to_where_lines_meet(data):
    """To one example at most: below that there is nothing to train on."""
    rows = data.crossings
    far = curvature_figures.crossing(data).axes[0].get_xlim()[0]
    near = rows.assign(crossing_size=rows["crossing_size"].clip(200, 300))
    assert far == pytest.approx(1 / 1.5)
    below = curvature_figures.crossing(replace(data, crossings=near)).axes[0]
    assert below.get_xlim()[0] == pytest.approx(200 / 1.5)
