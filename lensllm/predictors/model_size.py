"""ModelSize: the more parameters, the better. An order, not a forecast."""

from __future__ import annotations

import numpy as np

from lensllm.core.errors import DataError
from lensllm.curves.curve import Array, Curves
from lensllm.predictors import order
from lensllm.predictors.prediction import Prediction


def predict(curves: Curves, targets: Array) -> Prediction:
    """Ordered by log parameters. Raises DataError when no candidate's parameters are known."""
    if curves.parameters is None or not np.isfinite(curves.parameters).any():
        raise DataError("model_size needs the candidates' numbers of parameters.")
    return order.predict(curves, -np.log(curves.parameters), targets, "model_size")
