"""VanillaFit: the vanilla law of every curve on its own."""

from __future__ import annotations

from lensllm.curves import Curves
from lensllm.laws import vanilla as law
from lensllm.predictors.prediction import Prediction


def predict(curves: Curves, target: float) -> Prediction:
    """The fitted law at ``target``. Raises DataError when no candidate has 3 sizes."""
    return Prediction(law.fit(curves).predict(target)[:, 0])
