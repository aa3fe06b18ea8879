"""AtS, *accept then stop* (Lin et al. 2024, algorithm 1): a line in log-log on the last points."""

from __future__ import annotations

import numpy as np

from lensllm.curves.curve import Array, Curves
from lensllm.predictors.prediction import Prediction


def predict(curves: Curves, targets: Array) -> Prediction:
    """The accepted line at ``targets``.

    Raises DataError when no candidate has ``curves.gamma`` sizes.
    """
    log_losses = np.log(curves.with_points(curves.gamma, "ats"))
    log_sizes = np.log(curves.sizes)
    predicted = np.full((len(log_losses), len(targets)), np.nan)
    for i, y in enumerate(log_losses):
        seen = np.isfinite(y)
        if seen.any():
            slope, level = accepted_line(log_sizes[seen], y[seen], curves.gamma, curves.tau)
            predicted[i] = level + slope * np.log(targets)
    return Prediction(np.exp(predicted))


def accepted_from(curves: Curves) -> Array:
    """(M,) where AtS sees the power phase begin: the smallest size that its walk did not reject.

    Where that is the smallest finished size, nothing was rejected, and the phase began there or
    before; where it is the γ-th largest, the walk stopped at its first step, and the phase began
    there or later. NaN for a candidate with at most γ sizes, of which the walk tests none.
    """
    log_losses, log_sizes = np.log(curves.mean_losses), np.log(curves.sizes)
    start = np.full(len(log_losses), np.nan)
    for i, y in enumerate(log_losses):
        seen = np.isfinite(y)
        if seen.sum() > curves.gamma:
            *_, kept = _walk(log_sizes[seen], y[seen], curves.gamma, curves.tau)
            start[i] = curves.sizes[seen][-kept]
    return start


def accepted_line(x: Array, y: Array, gamma: int, tau: float) -> tuple[float, float]:
    """Slope and level at x = 0 of the line on the accepted points; ``x`` ascends, both (n,).

    From the largest x down, the next point is accepted while its residual is at most ``tau`` times
    the standard deviation of the accepted ones' (denominator: their number). As in the published
    results, the smallest x is only ever tested, never accepted, unless n ≤ ``gamma``.
    """
    slope, level, _ = _walk(x, y, gamma, tau)
    return slope, level


def _walk(x: Array, y: Array, gamma: int, tau: float) -> tuple[float, float, int]:
    """Slope and level of the accepted line, and how many of the last points were not rejected."""
    if len(x) <= gamma:
        return *_line(x, y), len(x)
    for count in range(gamma, len(x)):
        slope, level = _line(x[-count:], y[-count:])
        residuals = y - level - slope * x
        if abs(residuals[-count - 1]) > tau * residuals[-count:].std():
            return slope, level, count
    return slope, level, len(x)


def _line(x: Array, y: Array) -> tuple[float, float]:
    deviation = x - x.mean()
    slope = float((deviation * y).sum() / (deviation**2).sum())
    return slope, float(y.mean() - slope * x.mean())
