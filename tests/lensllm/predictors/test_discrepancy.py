import numpy as np
import pytest
from scipy.integrate import dblquad
from scipy.stats import multivariate_normal

from lensllm.predictors.discrepancy import KERNELS, components, integrated, smooth

SEEN, TARGETS = np.array([0.0, 1.0, 1.7, 4.0]), np.array([2.5, 7.0, 9.3])
RESIDUALS = np.array([0.71, 0.69, 0.74, 0.65])
LEVELS = np.linspace(-1.0, 2.5, 40_001)


def members(count):
    """(chance, the points shifted, whether the targets are): none, a jump, an outlier."""
    everywhere = np.arange(count)
    yield 0.8, np.zeros(count), False
    for k in range(1, count):
        yield 0.1 / (count - 1), (everywhere >= k) * 1.0, True
    for k in range(count):
        yield 0.1 / count, (everywhere == k) * 1.0, False


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_component_is_a_conditional_gaussian_with_the_level_integrated_out(kernel):
    """The flat prior by brute force: a sum over a fine grid of levels."""
    wanted = list(members(len(SEEN)))
    actual = components(SEEN, TARGETS, kernel)

    assert len(wanted) == len(actual)
    for (chance, shift, stays), component in zip(wanted, actual, strict=True):
        at_target = np.full(len(TARGETS), float(stays))
        K = kernel(SEEN, SEEN) + 0.004**2 * np.eye(len(SEEN)) + 0.05**2 * np.outer(shift, shift)
        k = kernel(SEEN, TARGETS) + 0.05**2 * np.outer(shift, at_target)
        there = np.diag(kernel(TARGETS, TARGETS)) + 0.05**2 * at_target

        left = RESIDUALS - LEVELS[:, None]
        densities = multivariate_normal(cov=K).pdf(left)
        evidence = densities.sum() * (LEVELS[1] - LEVELS[0])
        posterior = densities / densities.sum()
        level = posterior @ LEVELS
        given_level = LEVELS[:, None] + left @ np.linalg.solve(K, k)
        mean = posterior @ given_level
        spread = posterior @ (given_level - mean) ** 2
        variance = there - np.sum(k * np.linalg.solve(K, k), axis=0) + spread

        r = RESIDUALS
        log_evidence = component.log_weight - 0.5 * r @ component.precision @ r
        constants = -0.5 * (len(r) - 1) * np.log(2 * np.pi)
        np.testing.assert_allclose(log_evidence + constants, np.log(chance * evidence), atol=1e-6)
        np.testing.assert_allclose(component.level @ r, level, rtol=1e-7)
        np.testing.assert_allclose(component.level @ r + r @ component.gain, mean, rtol=1e-7)
        np.testing.assert_allclose(component.variance, variance, rtol=1e-6)


def test_a_single_point_gives_the_level_and_its_distance_the_variance():
    none, outlier = components(np.zeros(1), TARGETS, smooth)
    apart = np.diag(smooth(TARGETS, TARGETS)) + smooth(np.zeros(1), np.zeros(1))[0, 0]
    apart = apart - 2 * smooth(np.zeros(1), TARGETS)[0] + 0.004**2

    for component, variance in ((none, apart), (outlier, apart + 0.05**2)):
        np.testing.assert_allclose(component.level, [1.0])
        np.testing.assert_allclose(component.gain, np.zeros((1, 3)), atol=1e-12)
        np.testing.assert_allclose(component.variance, variance)


def test_the_smooth_kernel_is_a_hump_and_a_random_walk():
    """Variance of the difference of two points: of a stationary part, and of steps between."""
    a, b = np.array([0.0, 2.0, 5.0]), np.array([3.0, 2.5, 11.0])
    difference = [
        smooth(p, p) - 2 * smooth(p, q) + smooth(q, q)
        for p, q in zip(a[:, None], b[:, None], strict=True)
    ]

    apart = np.abs(a - b)
    expected = 2 * 0.02**2 * (1 - np.exp(-(apart**2) / 18)) + 0.004**2 * apart
    np.testing.assert_allclose(np.ravel(difference), expected)


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (2.0, 5.0), (4.5, 0.5)])
def test_the_integrated_kernel_is_a_walk_and_a_walking_slope(a, b):
    slope, _ = dblquad(min, 0, a, 0, b, epsabs=1e-6)
    expected = 0.003**2 * (min(a, b) + slope)

    np.testing.assert_allclose(integrated(np.array([a]), np.array([b])), [[expected]], rtol=1e-4)
