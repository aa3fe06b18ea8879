"""The bound's transition beside the law's, as drawn."""

from dataclasses import replace

import pytest
from matplotlib.colors import to_hex

from lensllm.report import crossing_figure, style


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
    above, below = crossing_figure.crossing(data).axes[::-1]
    assert above.get_xlim() == below.get_xlim()
    assert above.get_position().x0 == pytest.approx(below.get_position().x0)
    assert above.get_position().x1 == pytest.approx(below.get_position().x1)


def test_the_power_law_goes_through_what_was_measured(data):
    """Its line between the sizes examined, and the cells' own means on it."""
    above = crossing_figure.crossing(data).axes[1]
    name, colour = data.candidates[0], style.PALETTE[0]
    (line,) = drawn(above, colour, linestyle="-")
    (dots,) = drawn(above, colour, linestyle="None")
    assert [800, 3200] == list(line.get_xdata()) == list(dots.get_xdata())
    terms = data.bounds.loc[data.bounds["candidate"] == name, "curvature_term"]
    assert list(dots.get_ydata()) == pytest.approx(terms)
    assert list(line.get_ydata()) == pytest.approx(terms)


def test_the_remainder_is_drawn_in_the_same_unit(data):
    """n^(−3/4) from end to end."""
    above = crossing_figure.crossing(data).axes[1]
    (line,) = drawn(above, style.INK)
    assert line.get_ydata() == pytest.approx(line.get_xdata() ** -0.75)


def test_a_crossing_within_the_axis_has_its_place(data):
    """900, with the interval from 300 to 5,000, below the middle of the row."""
    below = crossing_figure.crossing(data).axes[0]
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
    below = crossing_figure.crossing(data).axes[0]
    low, high = below.get_xlim()
    height = row(data, "t5-mini-docs")
    assert [(high, ">")] == [point[:2] for point in points(below, height - 0.2)]
    assert points(below, height + 0.2) == [(low, "<", style.PAPER)]
    assert points(below, row(data, "neo-micro-topics") - 0.2) == []


def test_the_laws_transition_is_a_stroke_across_the_row(data):
    """500 for the first candidate, and an arrow where it lies beyond the axis."""
    below = crossing_figure.crossing(data).axes[0]
    assert points(below, row(data, "qwen3-mini-mix")) == [(500.0, "|", style.INK)]
    assert points(below, row(data, "gpt2-nano-docs"))[0][:2] == (below.get_xlim()[1], ">")


@pytest.mark.parametrize("layout", [style.WIDE, style.NARROW])
def test_fifty_candidates_have_two_dozen_rows(make, layout):
    """The foremost; all that stand out have lines, and the others are one drawing."""
    data = make([(f"m{i:02d}", 10**6) for i in range(50)], examined=50)
    below, above = crossing_figure.crossing(data, layout).axes
    names = [label.get_text() for label in below.get_yticklabels()]
    assert data.candidates[:24] == names
    solid = [line for line in above.get_lines() if line.get_linestyle() == "-"]
    assert len(solid) == 1 + len(style.PALETTE)  # and the budget's
    (crowd,) = above.collections
    assert len(crowd.get_segments()) == 50 - len(style.PALETTE)


def test_candidates_without_a_crossing_have_no_row(data):
    """Such as those whose curvature failed but for one size."""
    rows = data.crossings
    below = crossing_figure.crossing(
        replace(data, crossings=rows[rows["candidate"] != "t5-mini-docs"])
    ).axes[0]
    names = [label.get_text() for label in below.get_yticklabels()]
    assert [name for name in data.candidates if name != "t5-mini-docs"] == names


def test_the_axis_reaches_down_to_where_lines_meet(data):
    """To one example at most: below that there is nothing to train on."""
    rows = data.crossings
    far = crossing_figure.crossing(data).axes[0].get_xlim()[0]
    near = rows.assign(crossing_size=rows["crossing_size"].clip(200, 300))
    assert far == pytest.approx(1 / 1.5)
    below = crossing_figure.crossing(replace(data, crossings=near)).axes[0]
    assert below.get_xlim()[0] == pytest.approx(200 / 1.5)
