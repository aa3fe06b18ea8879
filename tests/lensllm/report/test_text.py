"""Numbers as people read them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensllm.report import text


@pytest.mark.parametrize(
    ("function", "value", "expected"),
    [
        (text.loss, 1.23456, "1.235"),
        (text.loss, 0.0123456, "0.0123"),
        (text.loss, 0.0, "0.000"),
        (text.loss, math.nan, "–"),
        (text.score, -0.1234, "−0.123"),
        (text.unbroken, "5 % of 2 %", "5\N{NO-BREAK SPACE}% of 2\N{NO-BREAK SPACE}%"),
        (text.change, -0.0123, "−1.2 %"),
        (text.change, 0.05, "+5.0 %"),
        (text.significant, 1234567.0, "1.23 × 10⁶"),
        (text.significant, -0.000012345, "−1.23 × 10⁻⁵"),
        (text.significant, 1641.0, "1,641"),
        (text.significant, 0.0, "0"),
        (text.significant, math.inf, "–"),
        (text.rough, 0.03, "0.030"),
        (text.rough, 2.14, "2.1"),
        (text.percent, 0.5, "50 %"),
        (text.percent, 0.0, "0 %"),
        (text.percent, 1.0, "100 %"),
        (text.percent, 1e-6, "< 1 %"),
        (text.percent, 0.9999, "> 99 %"),
        (text.percent, math.nan, "–"),
        (text.size, 12_800, "12,800"),
        (text.size, 1_638_400, "1.64M"),
        (text.short, 890_000.0, "890k"),
        (text.short, 7.2e9, "7.2B"),
        (text.short, 12.0, "12"),
        (text.flops, 3.77e15, "3.77 PFLOP"),
        (text.flops, 950.0, "950 FLOP"),
        (text.memory, 4.03e8, "403 MB"),
        (text.memory, 2.5e9, "2.5 GB"),
        (text.seconds, 12.34, "12.3 s"),
        (text.seconds, 90.0, "1.5 min"),
        (text.seconds, 7200.0, "2.0 h"),
        (text.without_owner, "openai-community/gpt2", "gpt2"),
        (text.without_owner, "gpt2", "gpt2"),
    ],
)
def test_wording(function, value, expected):
    """Examples of every filter, with what is missing or extreme."""
    assert expected == function(value)


@given(st.text(max_size=80), st.integers(min_value=5, max_value=40))
def test_shortened_names_fit_and_keep_their_ends(name, width):
    """Names differ at their beginnings and at their ends."""
    short = text.shorten(name, width)
    assert len(short) <= width
    assert (name == short) is (len(name) <= width)
    assert name[:2] == short[:2]
    assert name[-1:] == short[-1:]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.8, 0.95, "0.800–0.950"), (-0.1, 0.2, "−0.100 to 0.200"), (math.nan, 0.2, "")],
)
def test_interval(low, high, expected):
    """A dash between numbers must not be read as a sign."""
    assert expected == text.interval(low, high)


@pytest.mark.parametrize(
    ("least", "most", "expected"),
    [
        (0.0, 0.0, "0"),
        (1.25, 1.25, "1.2"),
        (1.0, 2.5, "1–2.5"),
        (1.0, math.inf, "≥ 1"),
        (0.0, math.inf, "not seen"),
        (math.nan, math.nan, "–"),
    ],
)
def test_a_move_says_how_far_it_is_known(least, most, expected):
    """What may be hidden is not told as if it were small."""
    assert expected == text.moved(least, most)
