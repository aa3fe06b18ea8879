"""F(t) against the matrix exponential it is the closed form of."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm

from lensllm.spectrum import spectrum


def _kernel(size: int, rank: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    factor = generator.normal(size=(size, rank))
    return factor @ factor.T, generator.uniform(0.1, 1.4, size)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 999), st.floats(0, 5))
def test_residual_is_the_squared_norm_of_the_flow(size, rank, seed, time):
    kernel, norms = _kernel(size, rank, seed)
    expected = np.square(expm(-kernel / size * time) @ norms).sum()
    assert spectrum(kernel, norms).residual(time) == pytest.approx(expected, rel=1e-9)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 999))
def test_residual_falls_from_the_initial_one(size, rank, seed):
    kernel, norms = _kernel(size, rank, seed)
    curve = spectrum(kernel, norms).residual(np.geomspace(1e-6, 1e6, 50))
    assert spectrum(kernel, norms).residual(0.0) == pytest.approx((norms**2).sum())
    assert (np.diff(curve) <= 0).all()
    assert (curve >= 0).all()


def test_what_the_tangent_space_cannot_reach_stays():
    found = spectrum(np.diag([3.0, 0.0, 6.0]), np.array([1.0, 2.0, 3.0]))
    assert found.eigenvalues.tolist() == [2.0, 1.0, 0.0]  # of K/n, descending
    assert found.projections_squared.tolist() == [9.0, 1.0, 4.0]
    assert found.residual(1e9) == 4.0


def test_times_of_any_shape():
    found = spectrum(*_kernel(4, 4, 0))
    times = np.array([[0.0, 1.0, 2.0], [0.5, 3.0, 9.0]])
    assert found.residual(times).shape == (2, 3)
    assert found.residual(times)[1, 2] == found.residual(9.0)


def test_rounding_below_zero_is_no_growth():
    kernel = np.array([[1.0, 1.0], [1.0, 1.0 - 1e-15]])
    assert (spectrum(kernel, np.ones(2)).eigenvalues >= 0).all()
