"""Mixtures: the weights with which other predictors' log losses are averaged."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from lensllm.curves.curve import Array, Mask, nan_mean

_GROWTH = 2.4  # squared errors grow with the horizon to this power
_PULL = 0.3  # towards equal weights, in units of the mean squared error


def equal_weights(errors: Array, horizons: Array) -> Array:
    """Equal weights (K,), whatever the errors (C, K, M) were: *blend*."""
    count = errors.shape[1]
    return np.full(count, 1 / count)


def least_error_weights(errors: Array, horizons: Array) -> Array:
    """The weights (K,) of least squared backtest error, pulled towards equal ones: *stack*.

    ``errors`` (C, K, M) are those of C forecasts, ``horizons`` (C,) their reach in doublings.
    Errors that all candidates share change no order, so they are taken out. Without a backtest the
    weights are equal.
    """
    count = errors.shape[1]
    together: Mask = np.isfinite(errors).sum(1) == count  # (C, M)
    if not together.any():
        return np.full(count, 1 / count)
    errors = np.where(together[:, None], errors, np.nan)
    own = np.nan_to_num(errors - nan_mean(errors, axis=2)[:, :, None])
    products = np.einsum("ckm,clm->ckl", own, own) / np.maximum(together.sum(1), 1)[:, None, None]
    matrix = (products / horizons[:, None, None] ** _GROWTH).mean(0)
    pull = _PULL * np.trace(matrix) / count
    return minimize_on_simplex(matrix + pull * np.eye(count), np.full(count, pull / count))


def minimize_on_simplex(matrix: Array, linear: Array) -> Array:
    """argmin of wᵀ A w − 2 bᵀ w over w ≥ 0, Σ w = 1; A (K, K) positive semi-definite, K small.

    The minimum lies in the interior of some face of the simplex, and there it is a linear system.
    """
    count = len(linear)
    best = np.full(count, 1 / count)
    lowest = float(best @ matrix @ best - 2 * linear @ best)
    for size in range(1, count + 1):
        for face in map(list, combinations(range(count), size)):
            system = np.block([[2 * matrix[np.ix_(face, face)], np.ones((size, 1))],
                               [np.ones((1, size)), np.zeros((1, 1))]])  # fmt: skip
            weights = np.zeros(count)
            weights[face] = np.linalg.lstsq(system, np.append(2 * linear[face], 1.0))[0][:size]
            value = float(weights @ matrix @ weights - 2 * linear @ weights)
            if weights.min() >= 0 and value < lowest:
                best, lowest = weights, value
    return best
