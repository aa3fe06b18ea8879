"""The look that all figures share: themes, panels, labels."""

import re
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from lensllm.report import style
from lensllm.report.style import separated


def _drawing(name: str = "<b>&$x_1$") -> Figure:
    with style.style():
        figure = Figure(figsize=(2, 2))
        axes = figure.add_axes((0.1, 0.1, 0.8, 0.8))
        axes.plot([0, 1], [0, 1], color=style.PALETTE[0], marker="o")
        axes.text(0.5, 0.5, name, parse_math=False)
    return figure


def test_few_candidates_all_have_a_colour_and_a_mark_of_their_own(data):
    """Colour never stands alone: colour-blind readers have the marks."""
    looks = style.looks(data).values()
    assert 6 == len({look.colour for look in looks}) == len({look.marker for look in looks})


def test_in_a_crowd_the_true_best_stands_out_however_it_was_ranked(make):
    """Of fifty candidates seven lead the ranking; the eighth colour is for the one that won."""
    data = make([(f"m{i:02d}", 10**6) for i in range(50)])
    last = data.candidates[-1]
    rows = data.all_predictions
    truth = rows["measured"].where(rows["candidate"] != last, 0.5)
    looks = style.looks(replace(data, all_predictions=rows.assign(measured=truth)))
    coloured = [name for name, look in looks.items() if look is not style.CROWD]
    assert [*data.candidates[:7], last] == coloured


def test_in_a_crowd_the_choice_stands_out_however_it_was_ranked(make):
    """A careful choice may be far from the first by prediction."""
    data = make([(f"m{i:02d}", 10**6) for i in range(50)])
    chosen, rows = data.candidates[30], data.all_predictions
    cautious = rows["cautious"].where(rows["candidate"] != chosen, 0.1)
    looks = style.looks(replace(data, all_predictions=rows.assign(cautious=cautious)))
    assert looks[chosen] is not style.CROWD
    assert sum(look is not style.CROWD for look in looks.values()) == 8


def test_svg_follows_the_theme_and_keeps_to_itself():
    """Colours become the page's variables; nothing in it styles or names the rest of the page."""
    drawing = style.svg(_drawing(), "one", 'a "drawing"')
    assert drawing.startswith('<svg role="img" aria-label="a &quot;drawing&quot;"')
    assert "var(--c0)" in drawing
    assert "var(--ink)" in drawing
    assert "<style" not in drawing
    assert "metadata" not in drawing
    assert set(re.findall(r'\bid="([^"]*)"', drawing)) <= set(
        re.findall(r'(?:url\(|href=")#([^)"]*)', drawing)
    )


def test_svg_text_is_escaped_and_not_mathematics():
    """A name is shown as it is, markup and dollar signs included."""
    assert "&lt;b&gt;&amp;$x_1$" in style.svg(_drawing(), "one", "d")


def test_two_svgs_of_one_page_share_no_ids():
    """Clip paths of a hidden figure must not serve the visible one."""
    one, two = (
        set(re.findall(r'\bid="([^"]*)"', style.svg(_drawing(), name, "d")))
        for name in ("one", "two")
    )
    assert one
    assert not one & two


def test_equal_figures_give_equal_bytes(tmp_path):
    """No dates, no random ids, in either format."""
    for name in ("a", "b"):
        style.save_png(_drawing(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert style.svg(_drawing(), "one", "d") == style.svg(_drawing(), "one", "d")


def test_the_users_matplotlibrc_does_not_matter():
    """Bytes depend on the data only."""
    plain = style.svg(_drawing(), "one", "d")
    with mpl.rc_context({"lines.linewidth": 9, "svg.fonttype": "path", "axes.grid": False}):
        assert plain == style.svg(_drawing(), "one", "d")


def test_every_colour_of_the_palette_has_a_variable():
    """Otherwise a line would vanish on a dark page."""
    assert set(style.PALETTE) <= set(style.THEME)


@pytest.mark.parametrize(
    ("count", "named"),
    [(1, [0]), (2, [0, 1]), (5, [0, 1, 2, 3, 4]), (7, [0, 2, 4, 6]), (8, [0, 2, 4, 5, 7]),
     (13, [0, 3, 6, 9, 12])],
)  # fmt: skip
def test_at_most_five_sizes_are_named_first_and_last_among_them(count, named):
    """Evenly where that is possible."""
    sizes = [200 * 2**i for i in range(count)]
    with style.style():
        _, (axes,) = style.panels(style.WIDE, 1, 2.5, 0.0)
        style.size_axis(axes, sizes, "D", style.WIDE)
    assert [sizes[i] for i in named] == [int(tick) for tick in axes.get_xticks()]


heights = st.lists(st.floats(min_value=0, max_value=1), min_size=1, max_size=9)


@given(heights)
def test_neighbours_are_a_gap_apart_and_inside(positions):
    """However the predictions lie, names keep their order, their distance and the frame."""
    moved = np.array(separated(positions, 0.1))
    order = np.argsort(positions, kind="stable")
    assert (np.diff(moved[order]) >= 0.1 - 1e-9).all()
    assert moved.min() >= 0
    assert moved.max() <= 1 + 1e-9


def test_what_is_apart_stays():
    """Labels that do not collide stand exactly at their predictions."""
    assert pytest.approx(separated([0.9, 0.1, 0.5], 0.1)) == [0.9, 0.1, 0.5]


def test_a_pair_parts_evenly():
    """The least squares answer for two equal positions is half a gap each way."""
    assert pytest.approx(separated([0.5, 0.5], 0.1)) == [0.45, 0.55]


def test_nothing_to_separated():
    """No label is no problem."""
    assert separated([], 0.1) == []
