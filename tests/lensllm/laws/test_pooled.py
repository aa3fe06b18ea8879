"""What curves with known kernels, times and scale give back."""

from dataclasses import replace

import numpy as np
import pytest

from lensllm.curves.curve import Curves
from lensllm.laws import fit_lensllm
from lensllm.laws.pooled import pool
from lensllm.laws.varpro import solve
from lensllm.spectra.spectrum import Spectrum

SIZES = 200 * 2.0 ** np.arange(11)
SCALE, CENTRE = 3000.0, -1.0


def spectra(random, count):
    """Kernels that differ in speed and in shape."""
    speeds = random.normal(0, 1, count)
    return tuple(
        Spectrum(
            np.sort(random.lognormal(speed, 1.5, 32))[::-1], 32 * random.dirichlet(np.ones(32))
        )
        for speed in speeds
    )


def make(count, spread, noise=0.001):
    """Curves of the law, their times and their offsets; ln t is normal with sd ``spread``."""
    random = np.random.default_rng(3)
    kernels = spectra(random, count)
    times = np.exp(CENTRE + spread * random.standard_normal(count))
    offset = SCALE * np.array([float(k.share(t)) for k, t in zip(kernels, times, strict=True)])
    losses = curves_of(random, offset, noise)
    return Curves(tuple(map(str, range(count))), SIZES, losses, spectra=kernels), times, offset


def curves_of(random, offset, noise):
    """(M, S, 1) losses of the law with ``offset``."""
    count = len(offset)
    beta, E = random.uniform(0.5, 0.9, count), random.uniform(0.5, 1.5, count)
    fall = random.uniform(1, 3, count) * offset
    losses = fall[:, None] / (offset[:, None] + SIZES ** beta[:, None]) + E[:, None]
    return (losses * np.exp(noise * random.standard_normal(losses.shape)))[:, :, None]


@pytest.mark.parametrize("count", [6, 30])
def test_one_time_and_one_scale_are_found(count):
    curves, times, offset = make(count, spread=0.0)
    found = pool(SIZES, curves.mean_losses, curves.spectra)

    np.testing.assert_allclose(found.scale, SCALE, rtol=0.1)
    np.testing.assert_allclose(found.t, times, rtol=0.25)
    assert found.centre == pytest.approx(CENTRE, abs=0.15)
    assert found.spread == 0.1

    fit = fit_lensllm(curves, "pooled")
    np.testing.assert_allclose(fit.offset, offset, rtol=0.1)
    np.testing.assert_allclose(fit.t, found.t)
    assert fit.law == "lensllm_pooled"
    assert np.isnan(fit.offset_stderr).all()  # given by kernels and the others


def test_the_spread_of_the_times_is_found():
    for spread, expected in ((0.0, {0.1}), (0.5, {0.6}), (2.0, {1.5})):
        curves, _, _ = make(30, spread)
        assert pool(SIZES, curves.mean_losses, curves.spectra).spread in expected


def test_noisy_curves_borrow_from_the_others():
    """Where a curve hardly shows its offset, the kernels and the other curves do."""
    curves, _, offset = make(30, spread=0.1, noise=0.004)
    fits = [fit_lensllm(curves, mode) for mode in ("pooled", "prediction")]
    errors = [np.std(np.log(fit.offset / offset)) for fit in fits]
    assert errors[0] < 0.5 * errors[1]


def test_kernels_given_to_the_wrong_candidates_are_another_answer():
    """Their times look more different than they are, and the offsets are further off."""
    curves, _, offset = make(12, spread=0.0, noise=0.003)
    wrong = curves.spectra[1:] + curves.spectra[:1]
    right, shuffled = (pool(SIZES, curves.mean_losses, k) for k in (curves.spectra, wrong))
    assert right.spread < shuffled.spread

    fits = [fit_lensllm(c, "pooled") for c in (curves, replace(curves, spectra=wrong))]
    errors = [np.std(np.log(fit.offset / offset)) for fit in fits]
    assert errors[0] < 0.6 * errors[1]
    assert not np.allclose(*(fit.predict(1e7) for fit in fits), rtol=1e-4)


def test_equal_kernels_are_one_shared_offset():
    """The one that fits all curves best, and nothing depends on who has which kernel."""
    random = np.random.default_rng(0)
    losses = curves_of(random, np.full(8, 500.0), noise=0.001)
    curves = Curves(tuple("abcdefgh"), SIZES, losses, spectra=spectra(random, 1) * 8)
    fit = fit_lensllm(curves, "pooled")

    shared = np.exp(np.arange(np.log(300), np.log(800), 0.02))
    squares = [solve(SIZES, curves.mean_losses, v, v).sum_squares.sum() for v in shared]
    best = shared[int(np.argmin(squares))]
    np.testing.assert_allclose(fit.offset, best, rtol=0.1)
    assert fit.offset.max() < 1.1 * fit.offset.min()


def test_the_literal_scale_is_the_residual_of_every_candidate():
    curves, times, _ = make(6, spread=0.1)
    kernels = tuple(
        replace(k, projections_squared=k.projections_squared * factor)
        for k, factor in zip(curves.spectra, np.linspace(60, 130, 6), strict=True)
    )
    offset = np.array([float(k.residual(t)) for k, t in zip(kernels, times, strict=True)])
    losses = curves_of(np.random.default_rng(1), offset, noise=0.0005)
    fit = fit_lensllm(replace(curves, losses=losses, spectra=kernels), "pooled", "literal")

    np.testing.assert_allclose(fit.scale, [k.residual(0.0) for k in kernels])
    np.testing.assert_allclose(np.log(fit.t), np.log(times), atol=0.3)
    expected = [float(k.residual(t)) for k, t in zip(kernels, fit.t, strict=True)]
    np.testing.assert_allclose(fit.offset, expected, rtol=1e-6)


def test_a_candidate_with_too_few_sizes_is_left_out():
    curves, _, _ = make(6, spread=0.0)
    losses = curves.losses.copy()
    losses[2, 3:] = np.nan
    fit = fit_lensllm(replace(curves, losses=losses), "pooled")

    np.testing.assert_array_equal(np.isnan(fit.t), np.arange(6) == 2)
    np.testing.assert_array_equal(np.isnan(fit.E), np.arange(6) == 2)
    alone = fit_lensllm(curves.only([c for c in curves.candidates if c != "2"]), "pooled")
    np.testing.assert_allclose(np.delete(fit.offset, 2), alone.offset, rtol=1e-6)


def test_a_kernel_of_zeros_never_decays():
    """Its offset is s, whatever the time."""
    curves, _, _ = make(6, spread=0.0)
    still = Spectrum(np.zeros(4), np.ones(4))
    fit = fit_lensllm(replace(curves, spectra=(still, *curves.spectra[1:])), "pooled")

    assert fit.offset[0] == pytest.approx(fit.scale[0])
    assert np.isfinite(fit.t).all()
    everywhere = fit_lensllm(replace(curves, spectra=(still,) * 6), "pooled")
    np.testing.assert_allclose(everywhere.offset, everywhere.scale)
