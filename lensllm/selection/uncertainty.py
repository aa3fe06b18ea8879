"""The uncertainty of a prediction, from its errors inside the observed sizes.

Errors of the rolling-origin backtest are counted in units of the sd that one predictor, HRB,
states. The error that all candidates share cannot change the ranking and is kept apart from theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lensllm.core.seeds import generator
from lensllm.curves.curve import Array, Mask, nan_mean
from lensllm.selection.backtest import Backtest

# The unit, HRB's sd, is too small: errors were about 1.5 of it on tables of real losses.
_PRIOR_SCALE, _PRIOR_ORIGINS = 1.5, 3.0
_POOLED_ORIGINS = 30.0  # the weight of all candidates' variance against a candidate's own
_GROWTH_SD = 0.2  # of the prior that errors grow with the horizon just as the unit does
_LOG_SD = 0.3  # of the log sd of one horizon's errors, whose slope that growth is
_DEGREES = 10.0  # of the draws' Student t
_CAUTION = 0.5  # sd: predictions of the minimum are too low, most so for unsure candidates


@dataclass(frozen=True)
class ErrorScale:
    """Scale of the error of the log prediction, of Student t draws."""

    sd_log: Array  # (M,) the candidate's own part
    common_sd_log: float  # the part that all candidates share


@dataclass(frozen=True)
class Outlook:
    """Draws of the loss at the target, summarised; (M,) each, NaN where there is no prediction."""

    low: Array  # 80 % interval
    high: Array
    cautious: Array  # predicted + half an own sd: an unsure candidate must promise more
    p_best: Array  # sums to 1
    expected_regret: Array  # of choosing this candidate, in the unit of the losses


@dataclass(frozen=True)
class Draws:
    """N standard Student t errors, shared by all predictors so that they are compared alike."""

    own: Array  # (N, M)
    common: Array  # (N, 1)

    @classmethod
    def of(cls, candidates: tuple[str, ...], seed: int, count: int) -> Draws:
        """Every candidate has its own stream, named after it: its company changes nothing."""

        def errors(*indices: str) -> Array:
            return generator(seed, "forecast", *indices).standard_t(_DEGREES, count)

        own = [errors("candidate", name) for name in candidates]
        return cls(np.stack(own, axis=1), errors("common")[:, None])


def error_scale(backtest: Backtest, name: str, known: int) -> ErrorScale:
    """The error scale of the target's prediction by ``name`` from the first ``known`` sizes."""
    last = backtest.curves.sizes[known - 1]
    # inside the data a prediction still errs as if half a doubling away
    reach = max(float(np.log2(backtest.target / last)), 0.5)
    own_sd = backtest.unit(known)[:, -1]
    typical = _geometric_mean(own_sd)
    share = own_sd / typical
    judged = backtest.errors(name, known)
    errors = judged.errors / _geometric_mean(judged.unit)[:, None]
    weights = _weights(judged.horizons, np.isfinite(errors).sum(1) > 0)
    growth = _growth(judged.horizons, errors)
    errors = errors / judged.horizons[:, None] ** growth
    scale = typical * reach**growth
    common = nan_mean(errors, axis=1)
    squared = _mean_square((errors - common[:, None]) / np.sqrt(share), weights)
    prior, origins = _PRIOR_ORIGINS * _PRIOR_SCALE**2, float(judged.origins)
    weight = _PRIOR_ORIGINS + origins
    pooled = (prior + origins * float(np.nan_to_num(nan_mean(squared, axis=0)))) / weight
    shared = (prior + origins * float(np.nansum(weights * common**2))) / weight
    seen = np.where(np.isfinite(squared), origins, 0.0)
    variance = (_POOLED_ORIGINS * pooled + seen * np.nan_to_num(squared)) / (_POOLED_ORIGINS + seen)
    return ErrorScale(np.sqrt(variance * share) * scale, float(np.sqrt(shared)) * scale)


def outlook(predicted: Array, scale: ErrorScale, draws: Draws) -> Outlook:
    """Interval, P(best) and expected regret of ``predicted`` (M,) losses; NaN never wins.

    P(best) is smoothed towards uniform: draws alone rule nobody out.
    """
    count, drawn = len(predicted), len(draws.own)
    common = draws.common * scale.common_sd_log
    log_losses = np.log(predicted) + draws.own * scale.sd_log + common
    low, high = (np.exp(np.quantile(log_losses, q, axis=0)).astype(float) for q in (0.1, 0.9))
    ranked = np.where(np.isfinite(log_losses), log_losses, np.inf)
    best = ranked.argmin(1)
    wins = np.bincount(best, minlength=count).astype(float)
    p_best = 0.98 * (wins + 0.5) / (drawn + count / 2) + 0.02 / count
    losses = np.exp(log_losses)
    regret: Array = (losses - losses[np.arange(drawn), best][:, None]).mean(0)
    cautious = predicted * np.exp(_CAUTION * scale.sd_log)
    return Outlook(low, high, cautious, p_best, regret)


def _geometric_mean(sd: Array) -> Array:
    """Geometric mean over the candidates, the last axis; NaN are left out."""
    mean: Array = np.exp(nan_mean(np.log(sd), axis=-1))
    return mean


def _weights(horizons: Array, judged: Mask) -> Array:
    """(C,) weights of the ``judged`` forecasts, summing to 1; every horizon counts alike."""
    weights = np.zeros(len(horizons))
    _, place, count = np.unique(np.round(horizons[judged]), return_inverse=True, return_counts=True)
    weights[judged] = 1 / count[place] / max(len(count), 1)
    return weights


def _growth(horizons: Array, errors: Array) -> float:
    """Exponent by which errors outgrow their unit with the horizon, shrunk towards 0."""
    count = np.isfinite(errors).sum(1)
    centred = errors - nan_mean(errors, axis=1)[:, None]
    squares = np.nansum(centred**2, axis=1) / np.maximum(count - 1, 1)
    used = (count > 1) & (squares > 0)
    if not used.any():
        return 0.0
    x, y = np.log(horizons[used]), 0.5 * np.log(squares[used])
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / (x @ x + (_LOG_SD / _GROWTH_SD) ** 2))


def _mean_square(own: Array, weights: Array) -> Array:
    """(M,) weighted mean of squares over forecasts, less the degree of freedom of their mean."""
    seen = np.isfinite(own)
    total = (weights[:, None] * seen).sum(0)
    squares = np.where(seen, own, 0.0) ** 2
    count = np.maximum(seen.sum(1, keepdims=True), 1)
    squares = squares * count / np.maximum(count - 1, 1)
    mean = (weights[:, None] * squares).sum(0) / np.where(total > 0, total, 1.0)
    return np.where(total > 0, mean, np.nan)
