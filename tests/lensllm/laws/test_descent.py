import numpy as np
import pytest
from scipy.optimize import least_squares, nnls

from lensllm.laws.descent import BETAS, basis, descend, non_negative, project

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


# --- the linear half ----------------------------------------------------------------------------

GRID = 200 * 2.0 ** np.arange(8)


@pytest.mark.parametrize("beta", [0.01, 0.3, 2.0])
@pytest.mark.parametrize("offset", [1e-30, 50.0, 1e12])
def test_the_basis_spans_the_law_whatever_the_offset(beta, offset):
    z, kappa = basis(GRID, np.log([beta]), np.log([offset]))
    x = 1 / (offset + GRID**beta)

    assert (z[0, 0], z[0, -1]) == (1.0, 0.0)
    # E = 0 is b = κ a: then a (z + κ) is proportional to x
    np.testing.assert_allclose((z[0] + kappa[0]) / kappa[0], x / x[-1], rtol=1e-9)


def solve(z, kappa, y, weight, no_floor=None):
    sums = (weight**2, weight**2 * z, weight**2 * z**2, weight**2 * y, weight**2 * z * y)
    return non_negative(kappa, *(s.sum(-1) for s in sums), no_floor)


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_non_negative_least_squares_of_b_and_e(seed):
    random = np.random.default_rng(seed)
    offset, beta = np.exp(random.uniform(-3, 8)), random.uniform(0.05, 1.5)
    # a random walk: some rise (B = 0), some fall faster than the law with E = 0 can
    y = 3 * np.exp(np.cumsum(random.normal(-0.1, 0.1, len(GRID))))
    weight = random.uniform(0.5, 2.0, len(GRID))
    z, kappa = basis(GRID, np.array(np.log(beta)), np.array(np.log(offset)))

    a, b, gain = solve(z, kappa, y, weight)

    x = (offset + GRID[0] ** beta) / (offset + GRID**beta)
    _, distance = nnls(np.stack([x, np.ones_like(x)], 1) * weight[:, None], y * weight)
    assert (weight**2 * y**2).sum() - gain == pytest.approx(distance**2, rel=1e-7)
    assert ((weight * (a * z + b - y)) ** 2).sum() == pytest.approx(distance**2, rel=1e-7)
    assert a >= 0
    assert b >= kappa * a * (1 - 1e-12)


def test_e_can_be_fixed_at_zero():
    z, kappa = basis(GRID, np.array(np.log(0.5)), np.array(np.log(10.0)))
    y = 100 / (10 + GRID**0.5) + 1

    a, b, _ = solve(z, kappa, y, 1 / y, no_floor=np.array(True))

    assert b == pytest.approx(kappa * a)
