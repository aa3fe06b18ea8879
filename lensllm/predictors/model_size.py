"""ModelSize: the more parameters, the better. An order, dressed as a loss to be comparable."""

from __future__ import annotations

import numpy as np

from lensllm.curves import Curves
from lensllm.errors import DataError
from lensllm.predictors.prediction import Prediction

# a slope that orders the candidates and changes no loss in any digit that is printed
_FLATTEST = -1e-7


def predict(curves: Curves, target: float) -> Prediction:
    """Last losses regressed on parameters, log to log, with a slope that is never positive.

    So the order is by parameters alone. The level and the slope come from the losses seen and not
    from the target: as a forecast it is as poor as SubTuning's. Where small models do better, the
    slope is a token one and every candidate is predicted at the mean. NaN without parameters.
    Raises DataError when no candidate's parameters are known.
    """
    if curves.parameters is None or not np.isfinite(curves.parameters).any():
        raise DataError("model_size needs the candidates' numbers of parameters.")
    curves.with_points(1, "model_size")
    x, y = np.log(curves.parameters), np.log(curves.last_losses)
    known = np.isfinite(x) & np.isfinite(y)
    x_mean, y_mean = x[known].mean(), y[known].mean()
    deviation = x[known] - x_mean
    spread = (deviation**2).sum()
    slope = (deviation * y[known]).sum() / spread if spread > 0 else 0.0
    return Prediction(np.exp(y_mean + min(slope, _FLATTEST) * (x - x_mean)))
