"""What is printed about checks is what is meant."""

import numpy as np
import pytest

from bench import checks, replay
from lensllm.laws import fit_rectified


def test_the_ratio_compares_errors_at_the_same_budget():
    """That errors grow with the distance, and fires with it, must not look like the check's."""
    errors = np.array([[1.0, -1.0, 3.0, -3.0], [-1.0, 3.0, 1.0, -3.0]])
    fired = np.abs(errors) > 2

    assert checks.ratio(errors, fired) == pytest.approx(3)
    assert checks.ratio(errors * [[1.0], [50.0]], fired) == pytest.approx(3)


def test_it_fires_for_those_with_fewer_than_three_sizes_in_the_power_phase():
    known = replay.curves_of("flan").until(6_400)
    fit = fit_rectified(known)
    past = (known.sizes >= fit.transition_size[:, None]).sum(1)

    fired = checks.fires(known)

    assert 0 < fired.sum() < len(fired)
    np.testing.assert_array_equal((past < 3) & (fit.B > 0), fired)


def test_own_errors_share_nothing():
    errors = checks.own_errors("flan", "rectified")

    assert errors.shape == (7, 30)
    np.testing.assert_allclose(errors.sum(1), np.zeros(7), atol=1e-9)
