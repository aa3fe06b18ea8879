import numpy as np
import pytest
from scipy.optimize import least_squares

from lensllm.laws.descent import BETAS, descend, project

SIZES = 200 * 2.0 ** np.arange(9)
BOUNDS = np.log([1e-30]), np.log([1e12])


@pytest.fixture
def log_losses():
    """One noisy curve, (1, S), with a missing cell."""
    random = np.random.default_rng(4)
    logs = np.log(60 / (40 + SIZES**0.45) + 1.2) + 0.01 * random.standard_normal(len(SIZES))
    logs[3] = np.nan
    return logs[None]


def start(log_losses, beta, offset, no_floor=False):
    shape = (1, 1)
    around = np.nan_to_num(np.exp(log_losses), nan=1.0)[None]
    point = np.full(shape, np.log(beta)), np.full(shape, np.log(offset))
    return project(SIZES, log_losses, *point, around, np.full(shape, no_floor))


def residuals(log_losses, B, E, beta, offset):
    seen = np.isfinite(log_losses[0])
    return np.log(B / (offset + SIZES[seen] ** beta) + E) - log_losses[0, seen]


@pytest.mark.parametrize("beta", [0.1, 0.5, 1.2])
def test_projection_is_the_least_squares_of_the_log_loss(log_losses, beta):
    at = start(log_losses, beta, 30.0)

    oracle = least_squares(
        lambda q: residuals(log_losses, *np.exp(q), beta, 30.0),
        np.log([10.0, 0.5]),
        xtol=1e-14,
        ftol=1e-14,
    )
    assert at.sum_squares[0, 0] == pytest.approx(2 * oracle.cost, rel=1e-5)


@pytest.mark.parametrize("no_floor", [False, True])
def test_the_end_is_stationary_and_below_the_start(log_losses, no_floor):
    at = start(log_losses, 0.9, 3.0, no_floor)
    fixed = np.full((1, 1), no_floor)
    end = descend(SIZES, log_losses, at, *BOUNDS, steps=100, no_floor=fixed)

    assert end.sum_squares < at.sum_squares
    assert no_floor == (end.E[0, 0] == 0)
    for du, dv in ((1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3), (1e-3, 2e-3)):
        beside = project(SIZES, log_losses, end.log_beta + du, end.log_offset + dv, end.loss, fixed)
        assert beside.sum_squares[0, 0] >= end.sum_squares[0, 0] * (1 - 1e-9)


def test_bounds_hold(log_losses):
    low, high = np.log([5.0]), np.log([6.0])
    end = descend(SIZES, log_losses, start(log_losses, 1.9, 5.5), low, high, steps=50)

    assert low <= end.log_offset <= high
    assert np.log(BETAS[0]) <= end.log_beta <= np.log(BETAS[1])


def test_take_and_where_choose_starts_by_curve():
    logs = np.log(np.array([[3.0, 2.0, 1.5], [3.0, 2.9, 2.8]]))
    u = np.log([[0.2, 0.2], [0.8, 0.8]])
    at = project(SIZES[:3], logs, u, np.zeros((2, 2)), np.exp(np.stack([logs] * 2)))

    taken = at.take(np.array([[1, 0]]))
    merged = at.where(np.array([[True, False]] * 2), at.take(np.array([[1, 1], [0, 0]])))

    np.testing.assert_array_equal([[u[1, 0], u[0, 1]]], taken.log_beta)
    np.testing.assert_array_equal([at.loss[[1, 0], [0, 1]]], taken.loss)
    np.testing.assert_array_equal([[u[0, 0], u[1, 1]], [u[1, 0], u[0, 1]]], merged.log_beta)
