"""F(t) against the matrix exponential it is the closed form of, a real model's loss, and the
sampling of its probes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm

from lensllm.ntk import residual_kernel
from lensllm.spectra.spectrum import Spectrum, by_probes, spectrum, standard_error

TIMES = np.array([0.0, 0.01, 0.1, 1.0, 10.0])


def _kernel(size: int, rank: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    factor = generator.normal(size=(size, rank))
    return factor @ factor.T, generator.uniform(0.1, 1.4, size)


# --- the formula ----------------------------------------------------------------------------------


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 999), st.floats(0, 5))
def test_residual_is_the_squared_norm_of_the_flow(size, rank, seed, time):
    kernel, norms = _kernel(size, rank, seed)
    expected = np.square(expm(-kernel / size * time) @ norms).sum()
    assert spectrum(kernel, norms).residual(time) == pytest.approx(expected, rel=1e-9)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 999))
def test_residual_falls_from_the_initial_one(size, rank, seed):
    kernel, norms = _kernel(size, rank, seed)
    found = spectrum(kernel, norms)
    curve = found.residual(np.geomspace(1e-6, 1e6, 50))
    assert found.residual(0.0) == pytest.approx((norms**2).sum())
    assert (np.diff(curve) <= 0).all()
    assert (curve >= 0).all()
    reachable = np.linalg.lstsq(kernel, norms, rcond=1e-12)[0] @ kernel
    assert found.unreachable == pytest.approx(np.square(norms - reachable).sum(), abs=1e-9)


EIGENVALUE = st.just(0.0) | st.floats(0, 1e300)
SIZE_SQUARED = st.just(0.0) | st.floats(1e-200, 1e6)


@given(
    st.lists(st.tuples(EIGENVALUE, SIZE_SQUARED), min_size=1, max_size=8),
    st.lists(st.floats(0, 1e300), max_size=8),
)
def test_every_spectrum_has_a_finite_falling_residual_at_every_time(pairs, times):
    """No NaN and no warning, up to infinite time."""
    eigenvalues, projections = np.array(sorted(pairs, reverse=True)).T
    found = Spectrum(eigenvalues, projections)
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        curve = found.residual([0.0, *sorted(times), 1e300, np.inf])
        share = found.share([0.0, *sorted(times), np.inf])
    assert np.isfinite(curve).all()
    assert (np.diff(curve) <= 1e-12 * projections.sum()).all()
    assert curve[0] == pytest.approx(projections.sum())
    least = len(pairs) * np.finfo(float).eps * eigenvalues[0]
    assert curve[-1] == pytest.approx(projections[eigenvalues <= least].sum())
    assert ((share >= 0) & (share <= 1)).all() or projections.sum() == 0


def test_what_the_tangent_space_cannot_reach_stays():
    found = spectrum(np.diag([3.0, 0.0, 6.0]), np.array([1.0, 2.0, 3.0]))
    assert found.eigenvalues.tolist() == [2.0, 1.0, 0.0]  # of K/n, descending
    assert found.projections_squared.tolist() == [9.0, 1.0, 4.0]
    assert found.residual(1e9) == found.residual(np.inf) == found.unreachable == 4.0
    assert found.share(np.inf) == pytest.approx(4 / 14)


def test_eigenvalues_of_rounding_never_decay():
    """A kernel of rank one has one direction to learn, however long one waits."""
    kernel, norms = _kernel(8, 1, 0)
    assert spectrum(kernel, norms).residual(1e300) == spectrum(kernel, norms).residual(1e9)


def test_times_of_any_shape():
    found = spectrum(*_kernel(4, 4, 0))
    times = np.array([[0.0, 1.0, 2.0], [0.5, 3.0, 9.0]])
    assert found.residual(times).shape == found.share(times).shape == (2, 3)
    assert found.residual(times)[1, 2] == found.residual(9.0)


def test_rounding_below_zero_is_no_growth():
    kernel = np.array([[1.0, 1.0], [1.0, 1.0 - 1e-15]])
    assert (spectrum(kernel, np.ones(2)).eigenvalues >= 0).all()


def test_nothing_left_to_learn_has_no_share():
    assert np.isnan(spectrum(np.zeros((3, 3)), np.zeros(3)).share([0.0, 1.0])).all()


@given(st.integers(2, 9), st.integers(1, 9), st.integers(0, 999), st.floats(1e-3, 1e3))
def test_the_time_of_a_residual_is_where_it_is_reached(size, rank, seed, time):
    found = spectrum(*_kernel(size, rank, seed))
    remaining = float(found.residual(time))
    assert found.residual(found.time(remaining)) == pytest.approx(remaining, rel=1e-6)


def test_the_time_of_a_residual_outside_the_range():
    found = spectrum(np.diag([3.0, 0.0, 6.0]), np.array([1.0, 2.0, 3.0]))
    assert [found.time(14.0), found.time(20.0)] == [0.0, 0.0]
    assert [found.time(4.0), found.time(1.0)] == [np.inf, np.inf]
    assert np.isnan(found.time(np.nan))


# --- the constants --------------------------------------------------------------------------------


def test_a_small_step_of_gradient_descent_lowers_the_loss_as_f_falls(
    architecture, tiny_model, tiny_examples, plain_losses
):
    """dL/dτ(0) = −ρᵀKρ/n² = F′(0)/(2n): F's slope is that of a real model's loss, in float64."""
    model, probes = tiny_model(architecture), tiny_examples(7)
    kernel = residual_kernel(model, probes, method="exact")
    weights = {name: p.detach() for name, p in model.named_parameters()}
    slopes = torch.func.grad(lambda w: plain_losses(model, probes, w).mean())(weights)

    def loss_after(time: float) -> float:
        moved = {name: w - time * slopes[name] for name, w in weights.items()}
        return float(plain_losses(model, probes, moved).mean())

    n, norms = len(probes), kernel.residual_norms
    step = 1e-4  # T5 and Qwen3 normalise in float32, which drowns smaller ones
    measured = (loss_after(step) - loss_after(-step)) / (2 * step)
    slope = (kernel.spectrum.residual(1e-7) - kernel.spectrum.residual(0.0)) / 1e-7
    assert slope / (2 * n) == pytest.approx(measured, rel=3e-4)
    assert -norms @ kernel.matrix @ norms / n**2 == pytest.approx(measured, rel=3e-4)
    assert kernel.spectrum.residual(0.0) == pytest.approx(norms @ norms)


def test_probes_that_are_all_there_twice_change_the_size_of_f_and_not_its_decay():
    """Why the kernel is divided by n: the flow is that of a mean loss."""
    kernel, norms = _kernel(6, 4, 1)
    once, twice = spectrum(kernel, norms), spectrum(np.tile(kernel, (2, 2)), np.tile(norms, 2))
    np.testing.assert_allclose(twice.residual(TIMES), 2 * once.residual(TIMES), rtol=1e-9)
    np.testing.assert_allclose(twice.share(TIMES), once.share(TIMES), rtol=1e-9)


# --- the choice of probes -------------------------------------------------------------------------


def _population(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of ``count`` probes: a few shared directions and noise of their own, as of models."""
    generator = np.random.default_rng(5)
    shared = generator.normal(size=(count, 3)) * [3.0, 1.0, 0.5] + [2.0, 0.0, 0.0]
    own = generator.normal(size=(count, 400)) * 0.06 * generator.uniform(0.5, 2, (count, 1))
    gradients = np.hstack([shared, own])
    return gradients @ gradients.T, generator.uniform(0.9, 1.05, count)


@pytest.mark.parametrize(("count", "repeats"), [(24, 60), (80, 30)])  # singly, and in groups
def test_the_standard_error_is_the_spread_over_other_probes(count, repeats):
    kernel, norms = _population(count * repeats)
    sets = np.arange(count * repeats).reshape(repeats, count)
    shares = [spectrum(kernel[np.ix_(s, s)], norms[s]).share(TIMES) for s in sets]
    errors = [standard_error(kernel[np.ix_(s, s)], norms[s], TIMES) for s in sets[:8]]

    ratio = np.sqrt(np.mean(np.square(errors), axis=0))[1:] / np.std(shares, axis=0, ddof=1)[1:]
    assert ((ratio > 0.75) & (ratio < 1.3)).all(), ratio  # the bootstrap has 0.6 at the last
    assert errors[0][0] == 0  # F(0)/F(0)


def test_the_standard_error_of_independent_probes_is_the_jackknife_of_their_mean():
    """Without gradients in common and with equal ρ, φ is a mean of n exponentials."""
    rates = np.random.default_rng(0).uniform(0, 4, 10)
    error = standard_error(np.diag(rates), np.ones(10), 2.0)

    decays = [np.exp(-4.0 * np.delete(rates, i) / 9).mean() for i in range(10)]
    assert error == pytest.approx(np.sqrt(9 / 10 * np.square(decays - np.mean(decays)).sum()))


def test_equal_probes_leave_no_doubt():
    error = standard_error(np.full((9, 9), 2.0), np.full(9, 0.7), TIMES)
    np.testing.assert_allclose(error, np.zeros(5), atol=1e-12)


def test_fewer_probes_are_all_the_sets_of_them():
    kernel, norms = _population(20)
    shares, errors = by_probes(kernel, norms, (8, 20), TIMES)

    halves = [slice(0, 8), slice(8, 16)]
    expected = [spectrum(kernel[s, s], norms[s]).share(TIMES) for s in halves]
    np.testing.assert_allclose(shares[0], np.mean(expected, axis=0))
    squares = [standard_error(kernel[s, s], norms[s], TIMES) ** 2 for s in halves]
    np.testing.assert_allclose(errors[0], np.sqrt(np.mean(squares, axis=0)))
    np.testing.assert_allclose(shares[1], spectrum(kernel, norms).share(TIMES))
    np.testing.assert_allclose(errors[1], standard_error(kernel, norms, TIMES))


def test_few_probes_are_learnt_by_heart():
    """More of the residual is left at late times the more probes have to be learnt."""
    shares, _ = by_probes(*_population(96), (12, 24, 48, 96), 20.0)
    assert (np.diff(shares) > 0).all()
