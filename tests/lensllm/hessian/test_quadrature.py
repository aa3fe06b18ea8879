"""Bounds on ∫ max(λ, 0) dμ against measures known in full."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensllm.hessian.quadrature import Positive, positive_part, ritz


def _lanczos(values: np.ndarray, weights: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of the measure Σ weights δ(values), by the Lanczos process on diag(values)."""
    basis, diagonal, off = [np.sqrt(weights)], [], []
    for _ in range(steps):
        image = values * basis[-1]
        diagonal.append(image @ basis[-1])
        span = np.array(basis)
        for _ in range(2):
            image = image - span.T @ (span @ image)
        off.append(np.linalg.norm(image))
        basis.append(image / off[-1])
    return np.array(diagonal), np.array(off)


@st.composite
def measures(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Some positive, some negative eigenvalues and, as after fine-tuning, much weight near 0."""
    generator = np.random.default_rng(draw(st.integers(0, 9999)))
    size = draw(st.integers(30, 80))
    values = generator.normal(size=size) ** 3 * 10 ** generator.uniform(-2, 1)
    weights = generator.exponential(size=size) / (0.01 + np.abs(values)) ** draw(st.floats(0, 2))
    return values, weights / weights.sum()


@given(measures(), st.integers(1, 12))
def test_the_value_lies_between_the_bounds(measure, steps):
    values, weights = measure
    found = positive_part(*_lanczos(values, weights, steps))
    expected = weights @ np.maximum(values, 0)
    slack = 1e-6 * (weights @ np.abs(values))
    assert found.low - slack <= expected <= found.high + slack
    assert found.low - slack <= found.estimate <= found.high + slack


@given(measures())
def test_bounds_close_with_every_step(measure):
    found = [positive_part(*_lanczos(*measure, steps)) for steps in range(1, 10)]
    slack = 1e-6 * abs(found[0].high)
    assert all(b.low >= a.low - slack for a, b in pairwise(found))
    assert all(b.high <= a.high + slack for a, b in pairwise(found))


def test_one_step_is_scarfs_bound():
    found = positive_part(np.array([0.3]), np.array([1.2]))
    assert found.low == pytest.approx(0.3)  # Jensen
    assert found.high == pytest.approx((np.hypot(0.3, 1.2) + 0.3) / 2)


def test_a_complete_space_is_exact():
    values, weights = np.array([-2.0, -0.5, 1.0, 3.0]), np.full(4, 0.25)
    diagonal, off = _lanczos(values, weights, 4)
    found = positive_part(diagonal, off)
    assert found.estimate == pytest.approx(1.0)
    assert found.low == found.high == found.estimate


def test_a_node_already_at_the_kink():
    found = positive_part(np.array([0.0]), np.array([1.0]))
    assert found == Positive(pytest.approx(0.0), pytest.approx(0.0, abs=1e-9), pytest.approx(0.5))


def test_a_gauss_value_that_has_settled_is_not_yet_right():
    """Nearly all weight next to 0, as after fine-tuning: only the bounds know what is missing."""
    values = np.concatenate([np.linspace(-0.02, 0.02, 61), [5.0, 7.0, 2.0, -1.0]])
    weights = np.concatenate([np.full(61, 0.998 / 61), [5e-4, 1e-3, 1e-4, 4e-4]])
    expected = weights @ np.maximum(values, 0)
    diagonal, off = _lanczos(values, weights, 4)
    third, fourth = ritz(diagonal[:3], off[:2]).positive, ritz(diagonal, off[:3]).positive
    assert fourth == pytest.approx(third, rel=0.005)
    assert abs(fourth - expected) > 0.3 * expected
    found = positive_part(diagonal, off)
    assert found.low <= expected <= found.high
