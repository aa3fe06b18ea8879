"""HRB whose prior expects steeper curves where the kernel's own learning curve is steeper.

It is compared with HRB in ``bench.ablation`` and has not earned a place among the predictors.
"""

from __future__ import annotations

import numpy as np

from bench.learning_curve import exponent
from lensllm.core.errors import DataError
from lensllm.curves.curve import Array, Curves
from lensllm.predictors import DEFAULT_PRIOR, Prediction, hrb


def predict(curves: Curves, targets: Array) -> Prediction:
    """The posterior of HRB with the moved prior.

    Raises DataError without kernels, or when no candidate has any finished size.
    """
    if curves.spectra is None:
        raise DataError("hrb_kernel needs the kernel of every candidate: switch the kernel on.")
    expected = np.log([exponent(spectrum) for spectrum in curves.spectra])
    return hrb.posterior(curves, targets, DEFAULT_PRIOR, expected)
