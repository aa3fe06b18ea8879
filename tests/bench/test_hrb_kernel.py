from dataclasses import replace

import numpy as np
import pytest

from bench import hrb_kernel
from bench.learning_curve import exponent
from lensllm.core.errors import DataError
from lensllm.curves.curve import Curves
from lensllm.predictors import DEFAULT_PRIOR, Hrb, hrb
from lensllm.spectra.spectrum import Spectrum

K = np.arange(1, 33.0)
SHALLOW, STEEP = Spectrum(K**-1.5, K**-1.0), Spectrum(K**-1.5, K**-3.0)
SIZES = 200 * 2.0 ** np.arange(4)
TARGETS = np.array([25_600.0])
TWINS = Curves(
    ("a", "b", "c"), SIZES, np.tile(3 * (SIZES / 200) ** -0.1, (3, 1))[:, :, None],
    spectra=(SHALLOW, STEEP, SHALLOW),
)  # fmt: skip


def test_a_steeper_kernel_lowers_the_forecast_of_the_same_curve():
    plain = Hrb().predict(TWINS, TARGETS).loss[:, 0]

    moved = hrb_kernel.predict(TWINS, TARGETS).loss[:, 0]

    assert exponent(STEEP) > 1.2 * exponent(SHALLOW)
    assert moved[1] < plain[1] < moved[0] == moved[2]


def test_it_is_hrb_with_a_prior_moved_by_the_logarithms_of_the_exponents():
    slopes = np.log([exponent(s) for s in TWINS.spectra])

    expected = hrb.posterior(TWINS, TARGETS, DEFAULT_PRIOR, slopes)

    actual = hrb_kernel.predict(TWINS, TARGETS)
    np.testing.assert_array_equal(expected.loss, actual.loss)
    np.testing.assert_array_equal(expected.sd_log, actual.sd_log)


def test_kernels_alike_tell_nothing():
    alike = replace(TWINS, spectra=(STEEP,) * 3)

    expected, actual = Hrb().predict(alike, TARGETS), hrb_kernel.predict(alike, TARGETS)

    np.testing.assert_allclose(actual.loss, expected.loss, rtol=1e-12)


def test_a_kernel_without_an_exponent_is_like_the_average():
    unknown = replace(TWINS, spectra=(SHALLOW, Spectrum(np.ones(32), np.ones(32)), SHALLOW))

    predicted = hrb_kernel.predict(unknown, TARGETS)

    expected = Hrb().predict(TWINS, TARGETS)
    np.testing.assert_allclose(predicted.loss, expected.loss, rtol=1e-12)


def test_it_needs_kernels():
    with pytest.raises(DataError, match="hrb_kernel needs the kernel of every candidate"):
        hrb_kernel.predict(replace(TWINS, spectra=None), TARGETS)
