from dataclasses import replace

import numpy as np
import pytest

from lensllm.diagnostics.checks.kernel_bound import find
from lensllm.laws import fit, lensllm
from lensllm.spectra.spectrum import Spectrum


@pytest.mark.parametrize(
    ("t", "detail"), [(0.0, "a (t = 0, F = F(0));"), (np.inf, "a (t = ∞, F = F(∞));")]
)
def test_both_ends_of_the_range(clean, t, detail):
    fits = clean.fits.copy()
    fits.loc[(fits["candidate"] == "a") & (fits["law"] == "lensllm"), "t"] = t

    (found,) = find(replace(clean, fits=fits))

    assert found.candidate == "a"
    assert detail in found.message


def test_a_measured_time_is_no_bound(clean):
    fits = clean.fits.replace({"law": {"lensllm": "lensllm_phase"}}).assign(t=0.0)

    assert find(replace(clean, fits=fits)) == []


def test_of_a_real_fit_those_fire_whose_offset_the_kernel_cannot_give(clean):
    """Taken literally, F(0) = 2 is far below the pre-learned sizes; with F(0) = 5,000 it is not."""
    eigenvalues = np.array([1.0, 0.1])
    counts = []
    for total in (2.0, 5000.0):
        spectra = (Spectrum(eigenvalues, np.full(2, total / 2)),) * 6
        curves = replace(clean.curves, spectra=spectra, kernel_scale="literal")
        counts.append(find(replace(clean, fits=fit.fits_frame([lensllm.fit(curves)]))))

    assert "6 candidates, a (t = 0, F = F(0))" in counts[0][0].message
    assert [found for found in counts[1] if "t = 0" in found.message] == []
