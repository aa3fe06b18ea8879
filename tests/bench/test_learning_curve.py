import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.learning_curve import exponent, risk
from lensllm.spectra.spectrum import Spectrum, spectrum

RANDOM = np.random.default_rng(3)
SIZES = 2.0 ** np.arange(8)


class World:
    """Gaussian features of known variances, and a linear target of known coefficients."""

    def __init__(self, decay, smoothness, features=600):
        k = np.arange(1, features + 1.0)
        self.root = k ** (-decay / 2)
        self.target = k ** (-smoothness / 2)

    def draw(self, count):
        """Features scaled by their roots, and labels."""
        plain = RANDOM.standard_normal((count, len(self.root)))
        return plain * self.root, plain @ self.target

    def spectrum(self, count):
        x, y = self.draw(count)
        return spectrum(x @ x.T, y)

    def least_risk(self, count, repeats):
        """Of ridge regression on ``count`` examples: the mean over ``repeats``, exact over all
        test examples, at the best of many ridges, as a share of the untrained one."""
        ridges = np.logspace(-5, 2, 40)
        total = np.zeros(len(ridges))
        for _ in range(repeats):
            x, y = self.draw(count)
            values, vectors = np.linalg.eigh(x @ x.T)
            filtered = (vectors.T @ y) / (values + ridges[:, None])
            learnt = filtered @ vectors.T @ x * self.root
            total += ((self.target - learnt) ** 2).sum(1)
        return total.min() / repeats / (self.target**2).sum()


@pytest.mark.parametrize(("decay", "smoothness"), [(1.2, 1.5), (1.5, 2.0), (2.0, 1.3)])
def test_kernel_regression_learns_as_foretold(decay, smoothness):
    """From one set of probes, what fits of other examples do."""
    world, sizes = World(decay, smoothness), np.array([16.0, 45.0, 128.0])

    foretold = np.mean([risk(world.spectrum(128), sizes) for _ in range(20)], axis=0)

    measured = [world.least_risk(int(n), 30) for n in sizes]
    np.testing.assert_allclose(foretold, measured, rtol=0.15)


def test_with_all_probes_it_is_generalised_cross_validation():
    """‖(1 − S)ρ‖²/N over (tr(1 − S)/N)², S the smoother, least over the ridge."""
    x, y = World(1.5, 1.5).draw(40)
    K = x @ x.T

    def score(ridge):
        left = np.eye(40) - K @ np.linalg.inv(K + ridge * np.eye(40))
        return np.mean((left @ y) ** 2) / (np.trace(left) / 40) ** 2 / np.mean(y**2)

    expected = min(score(ridge) for ridge in np.logspace(-4, 4, 200) * np.trace(K) / 40)

    assert expected == pytest.approx(risk(spectrum(K, y), np.array([40.0]))[0], rel=1e-9)


@given(decay=st.floats(0.3, 3), smoothness=st.floats(0, 3), unit=st.floats(1e-6, 1e6))
def test_more_examples_never_hurt_and_units_do_not_matter(decay, smoothness, unit):
    k = np.arange(1, 65.0)
    known = Spectrum(k**-decay, k**-smoothness)

    risks = risk(known, np.append(SIZES[:7], [11.5, 50.3]))

    assert np.all(np.diff(risks[:7]) <= 0)
    assert risks[3] >= risks[7] >= risks[4] >= risks[8] >= risks[6] > 0
    other = Spectrum(unit * k**-decay, unit * k**-smoothness)
    np.testing.assert_allclose(risks, risk(other, np.append(SIZES[:7], [11.5, 50.3])))


def test_a_smoother_target_has_a_larger_exponent():
    slopes = [
        np.mean([exponent(World(1.5, smoothness).spectrum(128)) for _ in range(5)])
        for smoothness in (1.2, 1.6, 2.0)
    ]

    assert np.diff(slopes).min() > 0.05


def test_the_exponent_is_the_slope_of_the_law_without_a_floor():
    """ln(1/R − 1) = b ln n − b ln n₀ by least squares, n = 1, 2 … 64 of 100 probes."""
    known = World(1.5, 1.6).spectrum(100)

    x, y = np.log(SIZES[:7]), np.log(1 / risk(known, SIZES[:7]) - 1)

    assert np.cov(x, y)[0, 1] / np.var(x, ddof=1) == pytest.approx(exponent(known))


@pytest.mark.parametrize(
    "known",
    [
        Spectrum(np.ones(8), np.ones(8)),  # gradients that share nothing
        Spectrum(np.ones(1), np.ones(1)),
        Spectrum(np.zeros(8), np.ones(8)),
        Spectrum(np.ones(8), np.zeros(8)),  # nothing left to learn
    ],
    ids=["orthogonal", "one probe", "no gradient", "no residual"],
)
def test_nothing_to_learn_has_no_exponent(known):
    assert np.isnan(exponent(known))
