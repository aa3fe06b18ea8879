"""The bound's terms by hand; crossings against power laws and gaps made by hand; their tables."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensllm.hessian.bound import (
    PowerLaw,
    agreement_table,
    bound_terms,
    crossing_size,
    crossing_table,
    crossings,
    power_law,
)


def test_terms_by_hand():
    terms = bound_terms(2.0, 4.0, [1.0, 9.0, 0.0], subset_size=16, epsilon=0.5)
    assert terms.train_term == 3.0
    assert terms.curvature_term == 1.5 / 4 * (2 + 6)
    assert terms.bound == 6.0


def test_without_curvature_only_the_training_loss_is_left():
    terms = bound_terms(2.0, 4.0, [], subset_size=16, epsilon=0.1)
    assert terms.curvature_term == 0.0
    assert terms.bound == terms.train_term == pytest.approx(2.2)


SIZES = np.array([100.0, 200.0, 400.0, 800.0])


def _law(c3: float, beta3: float) -> PowerLaw:
    return PowerLaw(math.log(c3), beta3, np.full((2, 2), np.nan), 0)


def _crossings(terms, gaps, sizes=SIZES):
    found = crossings(sizes, terms, gaps, np.random.default_rng(0))
    return {each.remainder: each for each in found}


@given(st.floats(1e-3, 1e3), st.floats(-0.5, 1.2))
def test_a_power_law_is_found_again(c3, beta3):
    law = power_law(SIZES, c3 * SIZES**-beta3)
    assert law.log_c3 == pytest.approx(math.log(c3), abs=1e-9)
    assert law.beta3 == pytest.approx(beta3, abs=1e-9)


def test_its_errors_are_those_of_least_squares():
    """Against the textbook formula of the slope's standard error."""
    terms = np.array([0.9, 0.7, 0.66, 0.5])
    law = power_law(SIZES, terms)
    x, y = np.log(SIZES), np.log(terms)
    rest = y - np.polyval(np.polyfit(x, y, 1), x)
    slope = math.sqrt((rest @ rest) / 2 / ((x - x.mean()) ** 2).sum())
    assert law.errors[1] == pytest.approx(slope)
    assert law.beta3 == pytest.approx(-np.polyfit(x, y, 1)[0])


@given(st.floats(1e-4, 0.5), st.floats(0.0, 0.7), st.floats(0.01, 100))
def test_at_the_crossing_both_are_equal(c3, beta3, constant):
    law = _law(c3, beta3)
    size = crossing_size(law, math.log(constant))
    if 0 < size < 1e100:
        assert law.values(np.array([size]))[0] == pytest.approx(constant * size**-0.75, rel=1e-6)


def test_a_term_that_falls_faster_never_overtakes():
    assert crossing_size(_law(5.0, 0.8)) == math.inf


def test_without_a_remainder_the_term_is_always_above():
    terms = 0.5 * SIZES**-0.2
    assert _crossings(terms, 0.7 * terms)["fitted"].size < 1e-9


def test_a_gap_of_nothing_but_remainder_is_never_overtaken():
    found = _crossings(0.5 * SIZES**-0.2, 3 * SIZES**-0.75)
    assert found["fitted"].size > 1e9
    assert found["literal"].size == pytest.approx(2 ** (1 / 0.55))


def test_a_negative_gap_says_nothing():
    assert math.isnan(_crossings(0.5 * SIZES**-0.2, np.full(4, -0.1))["fitted"].size)


def test_the_constant_is_read_off_the_gaps():
    terms = 0.5 * SIZES**-0.2
    found = _crossings(terms, 0.6 * terms + 12 * SIZES**-0.75)
    assert found["fitted"].size == pytest.approx((12 / 0.3) ** (1 / 0.55))


def test_two_sizes_have_no_interval():
    found = _crossings(np.array([0.5, 0.4]), np.array([0.3, 0.2]), SIZES[:2])
    assert math.isnan(found["literal"].low)
    assert math.isnan(found["fitted"].high)


def test_intervals_cover_as_often_as_they_say():
    """80 %: of 200 experiments 160 ± 17 (three standard deviations), and the literal one exactly."""
    generator = np.random.default_rng(1)
    sizes = np.repeat(SIZES, 2)
    true = {"literal": 0.02 ** (-1 / 0.45), "fitted": (4 / (0.5 * 0.02)) ** (1 / 0.45)}
    covered = dict.fromkeys(true, 0)
    for _ in range(200):
        terms = 0.02 * sizes**-0.3 * np.exp(0.05 * generator.standard_normal(8))
        gaps = 0.5 * 0.02 * sizes**-0.3 + 4 * sizes**-0.75
        gaps = gaps + 0.002 * generator.standard_normal(8)
        for name, found in _crossings(terms, gaps, sizes).items():
            covered[name] += found.low <= true[name] <= found.high
    assert 143 <= covered["literal"] <= 177
    assert covered["fitted"] >= 143


@pytest.mark.parametrize(
    ("sizes", "terms"),
    [(SIZES, np.array([0.3, 0.2, 0.0, 0.1])), (np.array([100.0, 100.0]), np.array([0.3, 0.2]))],
)
def test_what_no_power_law_goes_through(sizes, terms):
    with pytest.raises(ValueError, match="positive terms at two sizes"):
        power_law(sizes, terms)


def test_gaps_that_are_all_noise_leave_a_wide_interval():
    gaps = np.array([0.1, -0.3, 0.4, -0.1])
    found = _crossings(0.5 * SIZES**-0.2, gaps)["fitted"]
    assert found.low == 0.0
    assert found.high == math.inf


SIZES = np.array([100, 200, 400, 800])


def _bounds(**terms: np.ndarray) -> pd.DataFrame:
    frames = [
        pd.DataFrame({"candidate": n, "size": SIZES, "curvature_term": t, "gap": 0.5 * t})
        for n, t in terms.items()
    ]
    return pd.concat(frames, ignore_index=True)


def _term(crossing: float, beta3: float = 0.25) -> np.ndarray:
    """C₃ n^(−β₃) that meets n^(−3/4) at ``crossing``."""
    return crossing ** (beta3 - 0.75) * SIZES**-beta3


def test_a_row_per_candidate_and_reading():
    rows = crossing_table(_bounds(a=_term(50), b=_term(3000)), {"a": 120.0, "b": 90.0}, 800, seed=0)
    literal = rows[rows["remainder"] == "literal"].set_index("candidate")
    assert list(rows["candidate"]) == ["a", "a", "b", "b"]
    assert literal.loc["a", "crossing_size"] == pytest.approx(50)
    assert literal.loc["b", "crossing_size"] == pytest.approx(3000)
    assert literal.loc["b", "beta3"] == pytest.approx(0.25)
    assert literal["agrees"].tolist() == [True, False]


def test_without_a_transition_there_is_nothing_to_agree_with():
    rows = crossing_table(_bounds(a=_term(50)), {"a": math.nan}, 800, seed=0)
    assert rows["agrees"].tolist() == [None, None]
    assert agreement_table(rows, 100, 1600).empty


def test_a_candidate_without_curvature_is_left_out():
    flat = _term(50) * [1, 1, 0, 1]
    rows = crossing_table(_bounds(a=_term(50), flat=flat), {"a": 120.0, "flat": 120.0}, 800, seed=0)
    assert set(rows["candidate"]) == {"a"}


def test_agreement_by_hand():
    bounds = _bounds(a=_term(200), b=_term(10), c=_term(1e6))
    rows = crossing_table(bounds, {"a": 400.0, "b": 20.0, "c": 150.0}, 800, seed=0)
    found = agreement_table(rows, 100, 1600).set_index("remainder").loc["literal"]
    assert found["candidates"] == 3
    assert found["same_phase"] == pytest.approx(2 / 3)
    # a: 200 against 400; b: both before the first size; c: beyond the target against 150
    assert found["doublings"] == pytest.approx(1.0)
    assert found["within_interval"] == 0.0


def test_no_candidates():
    assert agreement_table(pd.DataFrame(), 100, 1600).empty
