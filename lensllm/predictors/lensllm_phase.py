"""LensLLM in phase mode: the time t of F(Θ, t) is the measured early-stopping time."""

from __future__ import annotations

from lensllm.curves.curve import Array, Curves
from lensllm.laws import lensllm as law
from lensllm.predictors.prediction import Prediction


def predict(curves: Curves, targets: Array) -> Prediction:
    """The fitted law at ``targets``.

    Raises DataError without kernels or stopping times, or when no candidate has 3 sizes.
    """
    return Prediction(law.fit(curves, mode="phase").predict(targets))
