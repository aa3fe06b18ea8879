"""Transitions that cannot all be seen, and how far they moved at least and at most."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensllm.curves.curve import Curves
from lensllm.laws import fit_rectified, fits_frame
from lensllm.predictors import AtS
from lensllm.selection.transitions import Transitions

SIZES, TARGET = 100 * 2.0 ** np.arange(6), 12_800.0
NAN, INF = np.nan, np.inf


def seen(sizes: dict[str, float], low: float = 100, high: float = 12_800, source: bytes = b""):
    """Transitions whose sources differ from all others' unless named."""
    names = list(sizes)
    return Transitions(
        pd.Series(sizes, dtype=float),
        pd.Series(float(low), names),
        pd.Series(float(high), names),
        pd.Series([source or repr((sizes, low, high)).encode()] * len(names), names),
    )


def moves(one: Transitions, other: Transitions) -> tuple[dict, dict]:
    least, most = one.moves(other)
    return dict(least), dict(most)


def test_sides():
    found = seen({"a": 0, "b": 100, "c": 101, "d": 12_800, "e": INF, "f": NAN})
    assert list(found.side) == ["before", "before", "seen", "beyond", "beyond", "unknown"]
    np.testing.assert_array_equal(found.clipped, [100, 100, 101, 12_800, 12_800, NAN])


def test_a_move_between_two_that_are_seen_is_known():
    assert moves(seen({"a": 200, "b": 400}), seen({"a": 1600, "b": 400})) == (
        {"a": 3.0, "b": 0.0},
        {"a": 3.0, "b": 0.0},
    )


@pytest.mark.parametrize(
    ("one", "other", "least"),
    [(200, 0, 1), (200, 100, 1), (INF, 6400, 1), (0, INF, 7), (0, 50, 0), (INF, 20_000, 0)],
)
def test_of_a_move_over_an_end_only_what_is_left_is_known(one: float, other: float, least: float):
    for a, b in ((one, other), (other, one)):
        assert moves(seen({"a": a}), seen({"a": b})) == ({"a": least}, {"a": INF})


def test_both_are_compared_within_what_both_could_see():
    wide, narrow = seen({"a": 200, "b": 3200}), seen({"a": 800, "b": 1600}, low=400, high=1600)
    assert moves(wide, narrow) == ({"a": 1.0, "b": 0.0}, {"a": INF, "b": INF})


def test_ranges_that_do_not_overlap_tell_nothing():
    few, many = seen({"a": 150}, low=100, high=200), seen({"a": 1000}, low=800, high=1600)
    assert moves(few, many) == ({"a": 0.0}, {"a": INF})


def test_only_those_known_to_both_are_compared():
    assert moves(seen({"a": 200, "b": NAN, "c": 400}), seen({"c": 800, "b": 100, "d": 1})) == (
        {"c": 1.0},
        {"c": 1.0},
    )


def test_what_was_read_from_the_same_has_not_moved_though_nobody_can_see_it():
    one, other = seen({"a": INF, "b": 200}, source=b"x"), seen({"a": INF, "b": 200}, source=b"x")
    assert moves(one, other) == ({"a": 0.0, "b": 0.0}, {"a": 0.0, "b": 0.0})


@given(
    one=st.lists(st.floats(1, 1e6), min_size=4, max_size=4),
    other=st.lists(st.floats(1, 1e6), min_size=4, max_size=4),
    low=st.floats(1, 1e3),
    factor=st.floats(1.1, 1e3),
)
def test_the_true_move_lies_between(one, other, low, factor):
    names = list("abcd")
    both = [seen(dict(zip(names, s, strict=True)), low, low * factor) for s in (one, other)]
    least, most = both[0].moves(both[1])
    true = np.abs(np.log2(np.array(one) / np.array(other)))
    assert np.all(least <= true + 1e-9)
    assert np.all(true <= most + 1e-9)


def curves(*bends: float) -> Curves:
    """Level below the bend and a slightly uneven line in log-log from it on, to the last size."""
    falls = -0.3 * np.log(np.maximum(SIZES / np.array(bends)[:, None], 1))
    losses = np.exp(falls + 1e-3 * (-1.0) ** np.arange(len(SIZES)))
    return Curves(tuple("abcd"[: len(bends)]), SIZES, losses[:, :, None])


def test_ats_sees_from_the_smallest_size_to_the_last_that_a_line_can_begin_at():
    found = Transitions.of_ats(curves(100, 400, 800), AtS())
    assert dict(found.size) == {"a": 100, "b": 400, "c": 800}
    assert list(found.side) == ["before", "seen", "beyond"]
    assert list(Transitions.of_ats(curves(400), AtS(gamma=4)).side) == ["beyond"]


def test_a_candidates_own_sizes_are_its_ends():
    short = curves(100, 100)
    short.losses[1, [0, 5]] = NAN
    found = Transitions.of_ats(short, AtS())
    assert list(found.low) == [100, 200]
    assert list(found.high) == [800, 400]
    assert list(found.side) == ["before", "before"]


def test_the_law_sees_from_the_smallest_size_to_the_target():
    betas, offsets = np.array([0.5, 0.5, 0.4]), np.array([30.0, 5.0, 60.0])
    losses = 20 / (offsets[:, None] + SIZES ** betas[:, None]) + 1.0
    some = Curves(("a", "b", "c"), SIZES, losses[:, :, None])
    fits = fits_frame([fit_rectified(some)])
    found = Transitions.of_law(fits, some, TARGET)
    np.testing.assert_allclose(found.size, offsets ** (1 / betas), rtol=1e-3)
    assert list(found.side) == ["seen", "before", "beyond"]


def test_without_a_law_nothing_is_known():
    some = curves(400)
    fits = fits_frame([fit_rectified(some)])
    found = Transitions.of_law(fits[fits["law"] == "vanilla"], some, TARGET)
    assert list(found.side) == ["unknown"]


def test_other_settings_of_ats_leave_the_law_alone():
    some = curves(100, 3200)
    fits = fits_frame([fit_rectified(some)])
    laws = [Transitions.of_law(fits, some, TARGET) for _ in range(2)]
    assert {0.0} == set(laws[0].moves(laws[1])[1])
    one, other = (Transitions.of_ats(some, ats) for ats in (AtS(), AtS(tau=0.01)))
    assert INF in set(one.moves(other)[1])
