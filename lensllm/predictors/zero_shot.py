"""ZeroShot: the pretrained model's loss. An order, not a forecast: no training is in it."""

from __future__ import annotations

import numpy as np

from lensllm.core.errors import DataError
from lensllm.curves.curve import Array, Curves
from lensllm.predictors.prediction import Prediction


def predict(curves: Curves, targets: Array) -> Prediction:
    """The loss at D = 0, whatever the target. Raises DataError when it was not measured."""
    if curves.zero_shot is None or not np.isfinite(curves.zero_shot).any():
        raise DataError("zero_shot needs the pretrained models' losses: add size 0 to the sweep.")
    return Prediction.whatever(curves.zero_shot, targets)
