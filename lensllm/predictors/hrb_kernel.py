"""HRB whose prior expects steeper curves where the kernel's own learning curve is steeper."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lensllm.core.errors import DataError
from lensllm.curves.curve import Array, Curves
from lensllm.predictors import hrb
from lensllm.predictors.prediction import Prediction
from lensllm.spectra.learning_curve import exponent


def predict(curves: Curves, targets: Array) -> Prediction:
    """As HRB. Raises DataError without kernels, or when no candidate has any finished size."""
    if curves.spectra is None:
        raise DataError("hrb_kernel needs the kernel of every candidate: switch the kernel on.")
    expected = np.log([exponent(spectrum) for spectrum in curves.spectra])
    return hrb.predict(replace(curves, log_exponents=expected), targets)
