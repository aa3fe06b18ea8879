import numpy as np
import pytest
from scipy.optimize import nnls

from lensllm.laws.linear import basis, non_negative

SIZES = 200 * 2.0 ** np.arange(8)


@pytest.mark.parametrize("beta", [0.01, 0.3, 2.0])
@pytest.mark.parametrize("offset", [1e-30, 50.0, 1e12])
def test_the_basis_spans_the_law_whatever_the_offset(beta, offset):
    z, kappa = basis(SIZES, np.log([beta]), np.log([offset]))
    x = 1 / (offset + SIZES**beta)

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
    y = 3 * np.exp(np.cumsum(random.normal(-0.1, 0.1, len(SIZES))))
    weight = random.uniform(0.5, 2.0, len(SIZES))
    z, kappa = basis(SIZES, np.array(np.log(beta)), np.array(np.log(offset)))

    a, b, gain = solve(z, kappa, y, weight)

    x = (offset + SIZES[0] ** beta) / (offset + SIZES**beta)
    _, distance = nnls(np.stack([x, np.ones_like(x)], 1) * weight[:, None], y * weight)
    assert (weight**2 * y**2).sum() - gain == pytest.approx(distance**2, rel=1e-7)
    assert ((weight * (a * z + b - y)) ** 2).sum() == pytest.approx(distance**2, rel=1e-7)
    assert a >= 0
    assert b >= kappa * a * (1 - 1e-12)


def test_e_can_be_fixed_at_zero():
    z, kappa = basis(SIZES, np.array(np.log(0.5)), np.array(np.log(10.0)))
    y = 100 / (10 + SIZES**0.5) + 1

    a, b, _ = solve(z, kappa, y, 1 / y, no_floor=np.array(True))

    assert b == pytest.approx(kappa * a)
