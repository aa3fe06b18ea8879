"""Scores of predictions, once the losses at the target are known.

Every score takes arrays over the M candidates, leaves out those where an input is NaN, and is NaN
where it has no meaning: a correlation with a constant, or fewer than two candidates.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from lensllm.curves.curve import Array, Mask

# the scores of predicted losses, and those of intervals and P(best)
OF_LOSSES = ("pearson", "spearman", "kendall", "rel_acc", "regret", "rmse_log")
NAMES = (*OF_LOSSES, "coverage_80", "p_best_log_score")


def score(predicted: Array, truth: Array, eligible: Mask | bool = True) -> dict[str, float]:
    """All scores of predicted losses (M,) against the true ones (M,), by name.

    Candidates that are not ``eligible``, (M,), cannot be chosen (``rel_acc``, ``regret``).

    >>> score(np.array([1.0, 1.2, 1.1]), np.array([1.1, 1.3, 1.0]))["regret"]
    0.10000000000000009
    """
    return {
        "pearson": pearson(predicted, truth),
        "spearman": spearman(predicted, truth),
        "kendall": kendall(predicted, truth),
        "rel_acc": rel_acc(predicted, truth, eligible),
        "regret": regret(predicted, truth, eligible),
        "rmse_log": rmse_log(predicted, truth),
    }


def pearson(predicted: Array, truth: Array) -> float:
    """PearCorr of Lin et al. 2024: the linear correlation of predicted and true loss."""
    x, y = _both(predicted, truth)
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def spearman(predicted: Array, truth: Array) -> float:
    """Pearson correlation of the ranks; ties share their mean rank."""
    x, y = _both(predicted, truth)
    return pearson(rankdata(x), rankdata(y))


def kendall(predicted: Array, truth: Array) -> float:
    """Kendall's τ_b: concordant less discordant pairs, corrected for ties."""
    x, y = _both(predicted, truth)
    pairs = np.triu_indices(len(x), 1)
    in_x, in_y = (np.sign(np.subtract.outer(v, v)[pairs]) for v in (x, y))
    untied = np.sqrt((in_x @ in_x) * (in_y @ in_y))
    return float(in_x @ in_y / untied) if untied > 0 else np.nan


def rel_acc(predicted: Array, truth: Array, eligible: Mask | bool = True) -> float:
    """RelAcc of Lin et al. 2024: (worst − chosen) / (worst − best) in true loss; 1 is best.

    Candidates tied for the lowest prediction are chosen with equal chance.
    """
    _, y = _both(predicted, truth)
    if len(y) < 2 or np.ptp(y) == 0:
        return np.nan
    return float((y.max() - _chosen(predicted, truth, eligible)) / np.ptp(y))


def regret(predicted: Array, truth: Array, eligible: Mask | bool = True) -> float:
    """True loss of the chosen candidate minus that of the best, in the unit of the losses."""
    _, y = _both(predicted, truth)
    return float(_chosen(predicted, truth, eligible) - y.min()) if len(y) else np.nan


def rmse_log(predicted: Array, truth: Array) -> float:
    """Root mean squared error of the log loss: about the relative error."""
    x, y = _both(predicted, truth)
    return float(np.sqrt(np.mean(np.log(x / y) ** 2))) if len(y) else np.nan


def coverage_80(low: Array, high: Array, truth: Array) -> float:
    """Share of the true losses inside their 80 % intervals: .8 is honest."""
    known = np.isfinite(low) & np.isfinite(high) & np.isfinite(truth)
    inside = (low <= truth) & (truth <= high)
    return float(inside[known].mean()) if known.any() else np.nan


def p_best_log_score(p_best: Array, truth: Array) -> float:
    """−ln P(best) of the truly best candidate, the mean of those tied; uniform scores ln M."""
    p, y = _both(p_best, truth)
    return float(-np.log(p[y == y.min()].mean())) if len(y) else np.nan


def _both(a: Array, b: Array) -> tuple[Array, Array]:
    known = np.isfinite(a) & np.isfinite(b)
    return a[known], b[known]


def _chosen(predicted: Array, truth: Array, eligible: Mask | bool) -> float:
    x, y = _both(np.where(eligible, predicted, np.nan), truth)
    return float(y[x == x.min()].mean()) if len(x) else np.nan
