"""NLPMetrics: the heavier the tail of the weight spectra, the better. An order, not a forecast.

A smaller PL_alpha and a smaller E_TPL_lambda mean a heavier tail, and that a better model: Yang et
al. 2023, section 3.2.1 and Fig. 2 for both, Fig. 3 for E_TPL_lambda; Martin and Mahoney 2021 for
PL_alpha. The same study finds these orders weak among pretrained models, and E_TPL_lambda wrong
about depth (section 3.3, Fig. 5).
"""

from __future__ import annotations

import numpy as np

from lensllm.core.errors import DataError
from lensllm.curves.curve import Array, Curves
from lensllm.predictors import order
from lensllm.predictors.prediction import Prediction


def pl_alpha(curves: Curves, targets: Array) -> Prediction:
    """Ordered by PL_alpha. Raises DataError when it was measured of no candidate."""
    return _by("pl_alpha", curves, targets)


def e_tpl_lambda(curves: Curves, targets: Array) -> Prediction:
    """Ordered by E_TPL_lambda. Raises DataError when it was measured of no candidate."""
    return _by("e_tpl_lambda", curves, targets)


def _by(name: str, curves: Curves, targets: Array) -> Prediction:
    score = (curves.weight_metrics or {}).get(name)
    if score is None or not np.isfinite(score).any():
        raise DataError(
            f"{name} needs the pretrained weights' spectra: set heavy_tails.enabled=true."
        )
    return order.predict(curves, score, targets, name)
