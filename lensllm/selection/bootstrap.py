"""Confidence intervals of scores and of the differences between predictors: a paired bootstrap."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations_with_replacement

import numpy as np
import pandas as pd

from lensllm.core.seeds import generator
from lensllm.curves.curve import Array, Mask
from lensllm.selection import scores

SCORES = scores.OF_LOSSES
# pairs of candidates looked at in all draws; with many candidates fewer draws say as much
_WORK, _FEWEST_DRAWS = 10**8, 100
INTERVAL = (0.025, 0.975)  # 95 %, by the percentile method (Efron 1979)


def compare(
    predicted: Mapping[str, Array],
    truth: Array,
    reference: str,
    seed: int,
    draws: int = 1000,
    eligible: Mask | bool = True,
) -> pd.DataFrame:
    """Scores of every predictor, their differences from ``reference``'s, and 95 % intervals.

    ``predicted`` maps a predictor to (S, M) losses, the same S for all: row 0 is the prediction
    itself, the others are predictions from resampled seeds. ``truth`` is (M,), NaN where unknown.
    One row per predictor and score, in the columns predictor, score, value, low, high, difference,
    difference_low and difference_high; ``value`` and ``difference`` are those of row 0.

    A draw resamples the candidates of known truth and takes one of the rows 1 … S − 1 (if S = 1,
    row 0), both the same for all predictors, so differences, predictor less reference, are paired.
    A candidate that lacks a prediction is left out of that predictor's scores and of both sides of
    its difference; a draw without a meaning is left out of the interval. Candidates that are not
    ``eligible``, (M,), cannot be chosen.

    Raises ValueError when ``reference`` is not among the predictors or shapes contradict.
    """
    if reference not in predicted:
        raise ValueError(f"reference {reference!r} is not among {', '.join(predicted)}")
    shapes = {losses.shape for losses in predicted.values()}
    replicates = len(predicted[reference])
    if shapes != {(replicates, len(truth))}:
        raise ValueError(f"predictions have the shapes {shapes}, want one (S, {len(truth)})")
    random = generator(seed, "bootstrap")
    draws = min(draws, max(_FEWEST_DRAWS, _WORK // len(truth) ** 2))
    known, weights = np.isfinite(truth), np.zeros((draws, len(truth)))
    if count := int(known.sum()):  # how often each candidate is in each resample
        weights[:, known] = random.multinomial(count, np.full(count, 1 / count), draws)
    rows = random.integers(min(1, replicates - 1), replicates, draws)

    def value(name: str, partner: str) -> Array:
        shared = np.where(np.isfinite(predicted[partner][0]), predicted[name][0], np.nan)
        return np.array(list(scores.score(shared, truth, eligible).values()))

    def drawn(name: str, partner: str) -> Array:
        values = np.full((len(SCORES), draws), np.nan)
        for row in np.unique(rows):
            losses, others = predicted[name][row], predicted[partner][row]
            shared, taken = np.isfinite(losses) & np.isfinite(others), rows == row
            values[:, taken] = _scores(
                np.where(shared, losses, 1.0),
                truth,
                np.where(shared, weights[taken], 0.0),
                eligible,
            )
        return values

    frames = []
    for name in predicted:
        low, high = _interval(drawn(name, name))
        least, most = _interval(drawn(name, reference) - drawn(reference, name))
        row = {
            "predictor": name,
            "score": SCORES,
            "value": value(name, name),
            "low": low,
            "high": high,
            "difference": value(name, reference) - value(reference, name),
            "difference_low": least,
            "difference_high": most,
        }
        frames.append(pd.DataFrame(row))
    return pd.concat(frames, ignore_index=True)


def _interval(values: Array) -> tuple[Array, Array]:
    """(K,) ends of the interval of (K, N) draws; NaN where no draw has a meaning."""
    ends = np.full((2, len(values)), np.nan)
    for k, row in enumerate(values):
        if np.isfinite(row).any():
            ends[:, k] = np.quantile(row[np.isfinite(row)], INTERVAL)
    return ends[0], ends[1]


def _scores(x: Array, y: Array, weights: Array, eligible: Mask | bool = True) -> Array:
    """(6, N) the ``SCORES`` of N draws, each as ``selection.scores`` has it of its candidates.

    ``weights`` (N, M) count how often a candidate was drawn; predictions ``x`` and the truth ``y``
    are (M,). Where a weight is 0 they may be anything.
    """
    y = np.where(weights.any(0), y, 1.0)
    drawn = weights > 0
    x_signs, y_signs = _signs(x), _signs(y)
    racing = drawn & eligible
    chosen = weights * racing * (x == np.where(racing, x, np.inf).min(1, keepdims=True))
    worst, best = np.where(drawn, y, -np.inf).max(1), np.where(drawn, y, np.inf).min(1)
    # of one candidate again and again: the loss, a mean, may differ from it by rounding
    span = np.where(worst > best, worst - best, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        untied = np.sqrt(_pairs(weights, x_signs**2) * _pairs(weights, y_signs**2))
        loss = (chosen * y).sum(1) / chosen.sum(1)
        result: Array = np.stack(
            [
                _correlation(x, y, weights),
                # a mean rank is, but for scale and origin, the sum of signs over the others
                _correlation(weights @ x_signs, weights @ y_signs, weights),
                _pairs(weights, x_signs * y_signs) / untied,
                (worst - loss) / span,
                loss - best,
                np.sqrt((weights * np.log(x / y) ** 2).sum(1) / weights.sum(1)),
            ]
        )
    return result


def _correlation(x: Array, y: Array, weights: Array) -> Array:
    """(N,) Pearson correlations of the drawn candidates; NaN with a constant."""
    drawn, total = weights > 0, weights.sum(1, keepdims=True)
    centred = [v - (weights * v).sum(1, keepdims=True) / total for v in (x, y)]
    xx, xy, yy = ((weights * a * b).sum(1) for a, b in combinations_with_replacement(centred, 2))
    constant = np.zeros(len(weights), dtype=bool)
    for v in (x, y):  # compared exactly: rounding leaves a constant some variance
        constant |= np.where(drawn, v, -np.inf).max(1) == np.where(drawn, v, np.inf).min(1)
    return np.where(constant, np.nan, xy / np.sqrt(xx * yy))


def _signs(values: Array) -> Array:
    """(M, M) signs of ``values`` (M,): of that with the second index less the first's."""
    signs: Array = np.sign(values - values[:, None])
    return signs


def _pairs(weights: Array, matrix: Array) -> Array:
    """(N,) the sums of ``matrix`` over pairs of drawn candidates, every pair twice."""
    total: Array = ((weights @ matrix) * weights).sum(1)
    return total
