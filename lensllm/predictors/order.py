"""Predictors that only order the candidates, dressed as a loss to be comparable with forecasts."""

from __future__ import annotations

import numpy as np

from lensllm.core.errors import DataError
from lensllm.curves.curve import Array, Curves
from lensllm.predictors.prediction import Prediction

# a slope that orders the candidates and changes no loss in any digit that is printed
_FLATTEST = 1e-7


def predict(curves: Curves, score: Array, targets: Array, who: str) -> Prediction:
    """Log last losses regressed on ``score`` (M,), with a slope that is always positive.

    So the order is by score alone, the lowest first. The level and the slope come from the losses
    seen and not from the targets: as a forecast it is as poor as SubTuning's. Where the regression
    slopes the other way it is given a token slope, and every candidate is predicted at the mean.
    NaN without score. Raises DataError, in the name of ``who``, when no candidate has both.
    """
    curves.with_points(1, who)
    y = np.log(curves.last_losses)
    known = np.isfinite(score) & np.isfinite(y)
    if not known.any():
        raise DataError(f"{who} is known of no candidate with a finished cell: run the others too.")
    x_mean, y_mean = score[known].mean(), y[known].mean()
    deviation = score[known] - x_mean
    spread = (deviation**2).sum()
    slope = (deviation * y[known]).sum() / spread if spread > 0 else 0.0
    loss: Array = np.exp(y_mean + max(slope, _FLATTEST) * (score - x_mean))
    return Prediction.whatever(loss, targets)
