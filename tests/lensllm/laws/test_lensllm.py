from dataclasses import replace

import numpy as np
import pytest

from lensllm.core.errors import DataError
from lensllm.curves.curve import Curves
from lensllm.laws import fit_lensllm, fit_rectified
from lensllm.spectra.spectrum import Spectrum

SIZES = 200 * 2.0 ** np.arange(11)
SCALE = 3000.0


def spectrum(random, probes=32, null=0):
    eigenvalues = np.sort(random.lognormal(0, 3, probes))[::-1]
    eigenvalues[probes - null :] = 0
    return Spectrum(eigenvalues, random.dirichlet(np.ones(probes)) * probes)


def make(noise=0.0, null=0, count=5):
    """Curves of the law with known times and one scale, and those times."""
    random = np.random.default_rng(6)
    spectra = tuple(spectrum(random, null=null) for _ in range(count))
    times = 10 ** random.uniform(-3, 0, count)
    offset = SCALE * np.array(
        [float(s.residual(t) / s.residual(0)) for s, t in zip(spectra, times, strict=True)]
    )
    beta, E = random.uniform(0.5, 0.9, count), random.uniform(0.5, 1.5, count)
    fall = random.uniform(1, 3, count) * offset
    losses = fall[:, None] / (offset[:, None] + SIZES ** beta[:, None]) + E[:, None]
    losses *= np.exp(noise * random.standard_normal(losses.shape))
    return (
        Curves(
            tuple("abcde"[:count]),
            SIZES,
            losses[:, :, None],
            spectra=spectra,
            stop_times=np.tile(times[:, None], len(SIZES)),
        ),
        times,
        offset,
    )


def test_prediction_finds_the_offsets_and_the_time_is_where_f_reaches_them():
    curves, _, offset = make()
    fit = fit_lensllm(curves, "prediction")

    np.testing.assert_allclose(fit.offset, offset, rtol=1e-3)
    for i, kernel in enumerate(curves.spectra):
        left = kernel.residual(fit.t[i]) / kernel.residual(0)
        assert fit.scale[i] * left == pytest.approx(fit.offset[i], rel=1e-6)
    assert len(set(fit.scale)) == 1
    assert fit.scale[0] >= fit.offset.max() * (1 - 1e-9)
    assert fit.law == "lensllm"


def test_prediction_with_a_wide_range_is_the_rectified_law():
    curves, _, _ = make(noise=0.003)
    wide = tuple(
        replace(s, projections_squared=s.projections_squared * 1e6) for s in curves.spectra
    )
    fit = fit_lensllm(replace(curves, spectra=wide), "prediction", "literal")

    np.testing.assert_allclose(fit.rmse_log, fit_rectified(curves).rmse_log, rtol=1e-6)
    np.testing.assert_allclose(fit.scale, [s.residual(0) for s in wide])


def test_literal_scale_caps_the_offset_at_f_of_zero():
    curves, _, _ = make(noise=0.003)
    fit = fit_lensllm(curves, "prediction", "literal")

    cap = np.array([float(s.residual(0)) for s in curves.spectra])
    np.testing.assert_allclose(fit.offset, cap, rtol=1e-9)  # about 32, thousands are wanted
    np.testing.assert_array_equal(fit.t, np.zeros(5))
    assert np.isnan(fit.offset_stderr).all()


def test_a_shared_scale_is_not_larger_than_the_data_ask_for():
    """One unit of log-likelihood is all that the smallest accepted scale may cost."""
    curves, _, _ = make(noise=0.003)
    fit, free = fit_lensllm(curves, "prediction"), fit_rectified(curves)

    points = curves.losses.size
    lost = points * np.log((fit.rmse_log**2).sum() / (free.rmse_log**2).sum())
    assert 0 <= lost < 1.5
    assert fit.scale[0] < 3 * SCALE


def test_the_null_space_keeps_the_offset_up():
    curves, _, _ = make(noise=0.003, null=8)
    fit = fit_lensllm(curves, "prediction", "literal")

    floors = np.array([s.projections_squared[-8:].sum() for s in curves.spectra])
    assert np.all(fit.offset >= floors * (1 - 1e-9))


def test_an_offset_of_zero_is_reached_at_infinite_time():
    curves, _, _ = make(count=2)
    power_laws = np.stack([5 / SIZES**0.3 + 1, 4 / SIZES**0.4 + 0.5])
    fit = fit_lensllm(replace(curves, losses=power_laws[:, :, None]), "prediction", "literal")

    np.testing.assert_allclose(fit.predict(1e6)[:, 0], [5 / 1e6**0.3 + 1, 4 / 1e6**0.4 + 0.5], 1e-4)
    assert np.all(fit.t > 1)


def test_phase_takes_the_median_stopping_time_and_finds_the_scale():
    curves, times, offset = make(noise=0.001)
    uneven = curves.stop_times.copy()
    uneven[:, 0] = np.nan
    uneven[:, 1] *= 100
    fit = fit_lensllm(replace(curves, stop_times=uneven), "phase")

    np.testing.assert_allclose(fit.t, times)
    np.testing.assert_allclose(fit.scale, SCALE, rtol=0.1)
    np.testing.assert_allclose(fit.offset, offset, rtol=0.1)
    assert np.isnan(fit.offset_stderr).all()
    assert fit.law == "lensllm_phase"


def test_phase_with_the_literal_scale_is_the_formula():
    curves, times, _ = make()
    fit = fit_lensllm(curves, "phase", "literal")

    expected = [float(s.residual(t)) for s, t in zip(curves.spectra, times, strict=True)]
    np.testing.assert_allclose(fit.offset, expected, rtol=1e-12)


@pytest.mark.parametrize("scale", ["literal", "scaled"])
def test_before_any_time_f_is_the_whole_residual(scale):
    """F(0) = Σρ² taken literally, s where it is scaled: t = 0 caps the offset there."""
    curves, _, _ = make(noise=0.001)
    fit = fit_lensllm(replace(curves, stop_times=np.zeros((5, 11))), "phase", scale)

    np.testing.assert_allclose(fit.offset, fit.scale, rtol=1e-9)
    whole = [kernel.projections_squared.sum() for kernel in curves.spectra]
    assert np.allclose(fit.scale, whole) == (scale == "literal")


def test_a_candidate_without_a_stopping_time_is_left_out():
    curves, _, _ = make()
    stop_times = curves.stop_times.copy()
    stop_times[2] = np.nan
    fit = fit_lensllm(replace(curves, stop_times=stop_times), "phase")

    np.testing.assert_array_equal(np.isnan(fit.E), [False, False, True, False, False])
    assert np.isnan(fit.t[2])


@pytest.mark.parametrize("mode", ["prediction", "phase", "pooled"])
def test_the_order_of_the_candidates_does_not_matter(mode):
    curves, _, _ = make(noise=0.003)
    order = [3, 0, 4, 2, 1]
    shuffled = Curves(
        tuple(curves.candidates[i] for i in order),
        SIZES,
        curves.losses[order],
        spectra=tuple(curves.spectra[i] for i in order),
        stop_times=curves.stop_times[order],
    )
    expected, actual = (fit_lensllm(c, mode).predict(1e6)[:, 0] for c in (curves, shuffled))

    np.testing.assert_allclose(actual, expected[order], rtol=1e-5)


def test_missing_inputs_are_named():
    curves, _, _ = make()
    with pytest.raises(
        DataError, match=r"of every candidate: kernel\.enabled is off, a kernel failed, or"
    ):
        fit_lensllm(replace(curves, spectra=None))
    with pytest.raises(DataError, match="no cell recorded one"):
        fit_lensllm(replace(curves, stop_times=None), "phase")
    with pytest.raises(DataError, match="needs 4 finished sizes"):
        fit_lensllm(curves.until(SIZES[2]))
