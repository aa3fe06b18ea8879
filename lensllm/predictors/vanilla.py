"""VanillaFit: the vanilla law of every curve on its own."""

from __future__ import annotations

from lensllm.curves.curve import Array, Curves
from lensllm.laws import vanilla as law
from lensllm.predictors.prediction import Prediction


def predict(curves: Curves, targets: Array) -> Prediction:
    """The fitted law at ``targets``. Raises DataError when no candidate has 3 sizes."""
    return Prediction(law.fit(curves).predict(targets))
