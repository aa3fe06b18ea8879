"""How far a prediction may be off: a rolling-origin backtest inside the observed sizes.

No truth at the target is used. The predictor is asked for sizes already measured from the smaller
ones alone. The error that all candidates share moves every curve alike and cannot change the
ranking, so it is kept apart from the candidates' own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lensllm.curves import Array, Curves, nan_mean
from lensllm.errors import DataError
from lensllm.predictors import PREDICTORS, Predictor
from lensllm.seeds import generator

# What is believed before any backtest: AtS misses by .018 (FLAN) and .012 (Gigaword) in log loss
# at one doubling on the tables of Lin et al. 2024, and its misses grow with doublings to the .96.
PRIOR_SD_LOG = 0.015
PRIOR_ORIGINS = 3.0  # the prior's weight, in origins of the backtest
SHARED_ORIGINS = 30.0  # the weight of the candidates' pooled spread against a candidate's own
PRIOR_NOISE_LOG = 0.004  # between seeds, where neither seeds nor three sizes show it


@dataclass(frozen=True)
class Spread:
    """Scale of the error of the log prediction: Student t with ``degrees`` of freedom."""

    sd_log: Array  # (M,) the candidate's own part
    common_sd_log: float  # the part that all candidates share
    degrees: float


@dataclass(frozen=True)
class Forecast:
    """Draws of the loss at the target, summarised; (M,) each."""

    low: Array  # 80 % interval; NaN where there is no prediction
    high: Array
    p_best: Array  # sums to 1


def spread(curves: Curves, target: float, predictor: Predictor) -> Spread:
    """Backtest ``predictor`` on ``curves`` and carry its errors on to ``target``."""
    horizons, errors, origins = _backtest(curves, predictor)
    common = nan_mean(errors, axis=1)
    own = errors - common[:, None]
    growth = _growth(horizons, nan_mean(own**2, axis=1), predictor.growth)
    common_growth = _growth(horizons, common**2, max(predictor.growth, 1.0))
    count = np.isfinite(errors).sum(1)
    scale = horizons**growth / np.sqrt(count / np.maximum(count - 1, 1))
    own = own / scale[:, None]
    squared = nan_mean(own**2, axis=0)  # (M,)
    prior = PRIOR_ORIGINS * PRIOR_SD_LOG**2
    weight = PRIOR_ORIGINS + origins
    pooled = (prior + origins * _mean_or_zero(squared)) / weight
    shared = (prior + origins * _mean_or_zero((common / horizons**common_growth) ** 2)) / weight
    seen = np.where(np.isfinite(squared), origins, 0.0)
    variance = (SHARED_ORIGINS * pooled + seen * np.nan_to_num(squared)) / (SHARED_ORIGINS + seen)
    unproven = _distance_to_ats(curves, target, predictor) if origins == 0 else 0.0
    # inside the data a prediction still errs as if half a doubling away
    reach = max(np.log2(target / curves.sizes[-1]), 0.5)
    return Spread(
        sd_log=np.sqrt(variance * reach ** (2 * growth) + unproven**2 + noise_log(curves) ** 2),
        common_sd_log=float(np.sqrt(shared) * reach**common_growth),
        degrees=weight,
    )


def forecast(
    candidates: tuple[str, ...], predicted: Array, uncertainty: Spread, seed: int, draws: int
) -> Forecast:
    """Interval and P(best) of the ``predicted`` (M,) losses from seeded draws; NaN never wins.

    Every candidate has its own stream, named after it, so that neither the order nor the company
    changes its draws. P(best) is smoothed towards uniform: draws alone rule nobody out.
    """
    count = len(predicted)

    def errors(*indices: str) -> Array:
        return generator(seed, "forecast", *indices).standard_t(uncertainty.degrees, draws)

    own = np.stack([errors("candidate", name) for name in candidates], 1) * uncertainty.sd_log
    common = errors("common")[:, None] * uncertainty.common_sd_log
    log_losses = np.log(predicted) + own + common
    low, high = (np.exp(np.quantile(log_losses, q, axis=0)).astype(float) for q in (0.1, 0.9))
    best = np.where(np.isfinite(log_losses), log_losses, np.inf).argmin(1)
    wins = np.bincount(best, minlength=count).astype(float)
    p_best = 0.98 * (wins + 0.5) / (draws + count / 2) + 0.02 / count
    return Forecast(low, high, p_best)


def noise_log(curves: Curves) -> float:
    """Standard deviation of one run's log loss: between seeds, else from second differences.

    A smooth curve's y(j−1) − 2 y(j) + y(j+1) is noise of variance 6σ² plus curvature. What the
    candidates' curves share of it is taken out; the median over the rest errs a little upwards.
    """
    logs = np.log(curves.losses)
    count = np.isfinite(logs).sum(-1)
    if np.any(count > 1):
        squares = np.nansum((logs - nan_mean(logs, axis=-1)[..., None]) ** 2, axis=-1)
        return float(np.sqrt(squares[count > 1].sum() / (count[count > 1] - 1).sum()))
    bends = np.diff(np.log(curves.mean_losses), n=2, axis=1)
    others = np.isfinite(bends).sum(0) - 1
    bends = np.where(others > 0, bends - nan_mean(bends, axis=0), bends)
    bends = np.abs(bends) * np.sqrt((others + 1) / np.maximum(others, 1))
    bends = bends[np.isfinite(bends)]
    # .6745: the median of |x| for a standard normal x
    return float(np.median(bends) / (0.6745 * np.sqrt(6))) if len(bends) else PRIOR_NOISE_LOG


def _backtest(curves: Curves, predictor: Predictor) -> tuple[Array, Array, int]:
    """Horizons in doublings (C,), log errors (C, M) and the number of origins.

    Each origin, the sizes known at the time, is asked for the next size and for the last one.
    """
    log_losses = np.log(curves.mean_losses)
    last = len(curves.sizes) - 1
    horizons, errors, origins = [], [], set()
    for origin in range(max(predictor.needed_sizes, 1) - 1, last):
        known = curves.until(curves.sizes[origin])
        for j in sorted({origin + 1, last}):
            try:
                predicted = predictor.predict(known, float(curves.sizes[j])).loss
            except DataError:  # too few finished cells that early
                break
            error = log_losses[:, j] - np.log(predicted)
            if np.isfinite(error).any():
                errors.append(error)
                horizons.append(np.log2(curves.sizes[j] / curves.sizes[origin]))
                origins.add(origin)
    return np.array(horizons), np.reshape(errors, (-1, len(log_losses))), len(origins)


def _distance_to_ats(curves: Curves, target: float, predictor: Predictor) -> Array:
    """(M,) how far, in log loss, a prediction that no backtest supports strays from a plain line.

    A law with as many parameters as points fits them all and may then go anywhere.
    """
    try:
        ats = PREDICTORS["ats"].predict(curves, target).loss
    except DataError:
        ats = curves.last_losses
    distance: Array = np.log(predictor.predict(curves, target).loss / ats)
    return np.nan_to_num(distance - nan_mean(distance, axis=0))


def _growth(horizons: Array, squared: Array, prior: float) -> float:
    """Exponent of the error's growth with the horizon: a slope shrunk to the prior, at least 0."""
    if len(horizons) == 0:
        return prior
    x = np.log(horizons) - np.log(horizons).mean()
    y = 0.5 * np.log(squared + 1e-10)
    seen = np.isfinite(y)
    return max(float((x @ np.where(seen, y, 0.0) + prior) / (x @ x + 1.0)), 0.0)


def _mean_or_zero(values: Array) -> float:
    return float(np.nan_to_num(nan_mean(values, axis=0)))
