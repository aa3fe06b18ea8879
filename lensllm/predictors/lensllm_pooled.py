"""LensLLM in pooled mode: the times t of F(Θ, t) have one prior, whose centre is fitted."""

from __future__ import annotations

from lensllm.curves.curve import Array, Curves
from lensllm.laws import lensllm as law
from lensllm.predictors.prediction import Prediction


def predict(curves: Curves, targets: Array) -> Prediction:
    """The fitted law at ``targets``.

    Raises DataError without kernels, or when no candidate has 4 sizes.
    """
    return Prediction(law.fit(curves, mode="pooled").predict(targets))
