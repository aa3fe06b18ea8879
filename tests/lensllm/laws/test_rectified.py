import numpy as np
import pytest

from lensllm.core.errors import DataError
from lensllm.curves.curve import Curves
from lensllm.laws import rectified

SIZES = 100 * 2.0 ** np.arange(7)


def test_it_recovers_the_pre_learned_size_and_the_transition():
    losses = 500 / (120 + SIZES**0.8) + 0.9
    fit = rectified.fit(Curves(("a",), SIZES, losses[None, :, None]))

    np.testing.assert_allclose(fit.offset, 120, rtol=1e-4)
    np.testing.assert_allclose(fit.transition_size, 120 ** (1 / 0.8), rtol=1e-4)
    np.testing.assert_allclose(
        fit.predict([1e3, 1e6]), [500 / (120 + np.array([1e3, 1e6]) ** 0.8) + 0.9], rtol=1e-5
    )


def test_seeds_count_through_their_mean():
    losses = (500 / (120 + SIZES**0.8) + 0.9)[None, :, None] * np.array([0.9, 1.1])
    fit = rectified.fit(Curves(("a",), SIZES, losses))

    np.testing.assert_allclose(fit.E, 0.9, rtol=1e-4)


def test_a_candidate_with_failed_cells_is_fitted_while_four_remain():
    losses = np.tile(500 / (120 + SIZES**0.8) + 0.9, (2, 1))
    losses[0, [1, 4]] = np.nan
    losses[1, 1:5] = np.nan
    fit = rectified.fit(Curves(("a", "b"), SIZES, losses[:, :, None]))

    np.testing.assert_array_equal(fit.sizes, [5, 0])
    np.testing.assert_allclose(fit.offset, [120, np.nan], rtol=1e-3)
    assert np.isnan([fit.B[1], fit.E[1], fit.rmse_log[1], fit.transition_size[1]]).all()


def test_three_sizes_are_too_few():
    with pytest.raises(DataError, match="The rectified law needs 4 finished sizes"):
        rectified.fit(Curves(("a",), SIZES[:3], np.ones((1, 3, 1))))
