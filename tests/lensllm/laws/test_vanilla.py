import numpy as np
import pytest

from lensllm.core.errors import DataError
from lensllm.curves.curve import Curves
from lensllm.laws import vanilla

SIZES = np.array([100.0, 200.0, 400.0, 800.0])


def test_it_recovers_a_power_law_with_a_floor():
    losses = np.stack([8 / SIZES**0.5 + 1, 3 / SIZES**0.2])
    fit = vanilla.fit(Curves(("a", "b"), SIZES, losses[:, :, None]))

    np.testing.assert_allclose(fit.B, [8, 3], rtol=1e-4)
    np.testing.assert_allclose(fit.beta, [0.5, 0.2], rtol=1e-4)
    np.testing.assert_allclose(fit.E, [1, 0], atol=1e-4)
    np.testing.assert_array_equal(fit.offset, [0, 0])
    np.testing.assert_array_equal(fit.transition_size, [0, 0])
    assert (fit.law, fit.candidates) == ("vanilla", ("a", "b"))


def test_two_sizes_are_too_few():
    with pytest.raises(DataError, match="The vanilla law needs 3 finished sizes"):
        vanilla.fit(Curves(("a",), SIZES[:2], np.ones((1, 2, 1))))
