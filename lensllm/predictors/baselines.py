"""Baselines of Lin et al. 2024 that order the candidates, as losses, and do not extrapolate."""

from __future__ import annotations

import numpy as np

from lensllm.core.errors import DataError
from lensllm.curves.curve import Array, Curves
from lensllm.predictors.predictor import Prediction

# a slope that orders the candidates and changes no loss in any digit that is printed
_FLATTEST = 1e-7


def zero_shot(curves: Curves, targets: Array) -> Prediction:
    """The pretrained model's loss, at every target.

    Raises DataError when the loss at D = 0 was not measured.
    """
    if curves.zero_shot is None or not np.isfinite(curves.zero_shot).any():
        raise DataError("zero_shot needs the pretrained models' losses: add size 0 to the sweep.")
    return Prediction.constant(curves.zero_shot, targets)


def sub_tuning(curves: Curves, targets: Array) -> Prediction:
    """The last measured loss, at every target.

    Raises DataError when no candidate has a finished size.
    """
    curves.require_sizes(1, "sub_tuning")
    return Prediction.constant(curves.last_losses, targets)


def model_size(curves: Curves, targets: Array) -> Prediction:
    """The more parameters, the better: ordered by the logarithm of their number.

    Raises DataError when no candidate's number of parameters is known.
    """
    if curves.parameters is None or not np.isfinite(curves.parameters).any():
        raise DataError("model_size needs the candidates' numbers of parameters.")
    return regress_on(curves, -np.log(curves.parameters), targets, "model_size")


def by_weight_metric(name: str, curves: Curves, targets: Array) -> Prediction:
    """The smaller the exponent ``name`` of the weights' spectra, the better.

    *pl_alpha* is that of a power law (Martin and Mahoney 2021), *e_tpl_lambda* λ of a truncated one
    (Yang et al. 2023, section 3.2.1). Raises DataError when no candidate's weights were measured.
    """
    score = (curves.weight_metrics or {}).get(name)
    if score is None or not np.isfinite(score).any():
        raise DataError(
            f"{name} needs the pretrained weights' spectra: set heavy_tails.enabled=true."
        )
    return regress_on(curves, score, targets, name)


def regress_on(curves: Curves, score: Array, targets: Array, who: str) -> Prediction:
    """Log last losses regressed on ``score`` (M,), with a slope that is always positive.

    The order is that of the scores, the lowest first. Where the regression slopes the other way,
    every candidate is predicted at the mean, but for a slope too small to print. NaN without score.
    Raises DataError, in the name of ``who``, when no candidate has a score and a loss.
    """
    curves.require_sizes(1, who)
    y = np.log(curves.last_losses)
    known = np.isfinite(score) & np.isfinite(y)
    if not known.any():
        raise DataError(f"{who} is known of no candidate with a finished cell: run the others too.")
    x_mean, y_mean = score[known].mean(), y[known].mean()
    deviation = score[known] - x_mean
    sum_squares = (deviation**2).sum()
    slope = (deviation * y[known]).sum() / sum_squares if sum_squares > 0 else 0.0
    loss: Array = np.exp(y_mean + max(slope, _FLATTEST) * (score - x_mean))
    return Prediction.constant(loss, targets)
