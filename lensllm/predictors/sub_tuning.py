"""SubTuning: the loss at the budget. An order, not a forecast: it does not extrapolate."""

from __future__ import annotations

from lensllm.curves.curve import Array, Curves
from lensllm.predictors.prediction import Prediction


def predict(curves: Curves, targets: Array) -> Prediction:
    """The last measured loss, whatever the target.

    A candidate whose run at the budget failed is judged, to its disadvantage, by a smaller size.
    """
    curves.with_points(1, "sub_tuning")
    return Prediction.whatever(curves.last_losses, targets)
