"""AtS, *accept then stop* (Lin et al. 2024, algorithm 1): a line in log-log on the last points."""

from __future__ import annotations

import numpy as np

from lensllm.curves import Array, Curves
from lensllm.predictors.prediction import Prediction


def predict(curves: Curves, targets: Array, gamma: int = 3, tau: float = 5.0) -> Prediction:
    """The accepted line at ``targets``.

    ``gamma`` is the least number of points of the regression, ``tau`` the residual, in standard
    deviations of the line's own, at which the walk to smaller sizes stops. Raises DataError when no
    candidate has ``gamma`` sizes.
    """
    log_losses = np.log(curves.with_points(gamma, "ats"))
    log_sizes = np.log(curves.sizes)
    predicted = np.full((len(log_losses), len(targets)), np.nan)
    for i, y in enumerate(log_losses):
        seen = np.isfinite(y)
        if seen.any():
            slope, level = accepted_line(log_sizes[seen], y[seen], gamma, tau)
            predicted[i] = level + slope * np.log(targets)
    return Prediction(np.exp(predicted))


def accepted_line(x: Array, y: Array, gamma: int, tau: float) -> tuple[float, float]:
    """Slope and level at x = 0 of the line on the accepted points; ``x`` ascends, both (n,).

    From the largest x down, the next point is accepted while its residual is at most ``tau`` times
    the standard deviation of the accepted ones' (denominator: their number). As in the published
    results, the smallest x is only ever tested, never accepted, unless n ≤ ``gamma``.
    """
    if len(x) <= gamma:
        return _line(x, y)
    for count in range(gamma, len(x)):
        slope, level = _line(x[-count:], y[-count:])
        residuals = y - level - slope * x
        if abs(residuals[-count - 1]) > tau * residuals[-count:].std():
            break
    return slope, level


def _line(x: Array, y: Array) -> tuple[float, float]:
    deviation = x - x.mean()
    slope = float((deviation * y).sum() / (deviation**2).sum())
    return slope, float(y.mean() - slope * x.mean())
