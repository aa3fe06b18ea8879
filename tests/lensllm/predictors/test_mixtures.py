from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lensllm.predictors.mixtures import (
    equal_weights,
    least_error_weights,
    minimize_on_simplex,
)

HORIZONS = np.array([1.0, 2.0, 1.0, 3.0])
RANDOM = np.random.default_rng(4)


def simplex(count, steps):
    """Every point of a grid of weights."""
    rows = product(range(steps + 1), repeat=count - 1)
    return np.array([[*row, steps - sum(row)] for row in rows if sum(row) <= steps]) / steps


GRIDS = {2: simplex(2, 2000), 3: simplex(3, 60)}


@given(data=st.data(), count=st.sampled_from([2, 3]), rank=st.integers(1, 3))
def test_no_point_of_the_simplex_is_lower(data, count, rank):
    """Also where the quadratic form is singular."""
    numbers = st.floats(-3, 3).map(lambda x: round(x, 3))
    factor = data.draw(arrays(float, (count, rank), elements=numbers))
    linear = data.draw(arrays(float, count, elements=numbers))
    matrix = factor @ factor.T

    def value(w):
        return np.einsum("...k,kl,...l", w, matrix, w) - 2 * w @ linear

    actual = minimize_on_simplex(matrix, linear)

    assert actual.min() >= 0
    assert actual.sum() == pytest.approx(1)
    assert value(actual) <= value(GRIDS[count]).min() + 1e-9


def test_without_a_backtest_the_weights_are_equal():
    nothing = np.empty((0, 3, 5)), np.empty(0)

    np.testing.assert_allclose(least_error_weights(*nothing), np.full(3, 1 / 3))


def test_a_perfect_part_gets_all_but_the_pull():
    """A = diag(a, 0): a w² + .3 a/2 (w − ½)² · 2 is least at w = .3 / 2.6."""
    errors = np.zeros((4, 2, 6))
    errors[:, 0] = RANDOM.standard_normal((4, 6))

    np.testing.assert_allclose(least_error_weights(errors, HORIZONS), [0.3 / 2.6, 2.3 / 2.6])


def test_two_parts_of_known_errors():
    """Independent errors of variance 1 and 4 and equal horizons."""
    own = np.array([[1.0, -1.0, 1.0, -1.0], [2.0, 2.0, -2.0, -2.0]])
    pull = 0.3 * 2.5  # A = diag(1, 4)

    weights = least_error_weights(np.stack([own, own]), np.ones(2))

    first = (4 + pull) / (5 + 2 * pull)
    np.testing.assert_allclose(weights, [first, 1 - first])


def test_an_error_counts_less_the_farther_it_looked():
    """Each part failed once, alike but for the horizon."""
    errors = np.zeros((2, 2, 6))
    errors[0, 0] = errors[1, 1] = RANDOM.standard_normal(6)

    near, far = least_error_weights(errors, np.array([1.0, 4.0]))

    pull = 0.3 * (1 + 4**-2.4) / 2
    assert near == pytest.approx((4**-2.4 + pull) / (1 + 4**-2.4 + 2 * pull))
    assert near < far


def test_an_error_that_all_candidates_share_does_not_matter():
    errors = RANDOM.standard_normal((4, 2, 6))
    shared = RANDOM.standard_normal((4, 2, 1))

    np.testing.assert_allclose(
        least_error_weights(errors + 10 * shared, HORIZONS), least_error_weights(errors, HORIZONS)
    )


def test_a_candidate_that_never_finished_is_left_out():
    errors = RANDOM.standard_normal((4, 2, 6))
    errors[:, :, 2] = np.nan

    np.testing.assert_allclose(
        least_error_weights(errors, HORIZONS),
        least_error_weights(np.delete(errors, 2, axis=2), HORIZONS),
    )


def test_parts_are_compared_on_forecasts_that_both_made():
    """What a part did where the other had no answer is no reason for or against it."""
    errors = np.zeros((4, 2, 6))
    errors[:, 0] = 0.01 * RANDOM.standard_normal((4, 6))
    errors[:, 1, :3] = np.nan
    errors[:, 1, 3:] = RANDOM.standard_normal((4, 3))
    worse = errors.copy()
    worse[:, 0, :3] += 5.0

    np.testing.assert_allclose(
        least_error_weights(worse, HORIZONS), least_error_weights(errors, HORIZONS)
    )


def test_nothing_to_compare_is_like_no_backtest():
    errors = RANDOM.standard_normal((4, 2, 6))
    errors[:, 0, :3] = errors[:, 1, 3:] = np.nan

    np.testing.assert_allclose(least_error_weights(errors, HORIZONS), [0.5, 0.5])


@pytest.mark.parametrize("errors", [np.zeros((4, 2, 6)), RANDOM.random((4, 2, 1))])
def test_parts_without_a_difference_are_weighed_alike(errors):
    """Two perfect ones, or a candidate alone, whose errors are all shared."""
    np.testing.assert_allclose(least_error_weights(errors, HORIZONS), [0.5, 0.5])


def test_the_blend_asks_for_no_errors():
    np.testing.assert_array_equal(
        equal_weights(RANDOM.standard_normal((4, 2, 6)), HORIZONS), [0.5, 0.5]
    )
