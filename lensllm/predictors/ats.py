"""AtS, *accept then stop* (Lin et al. 2024, algorithm 1): a line in log-log on the last points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lensllm.curves.curve import Array, Curves
from lensllm.predictors.predictor import Input, Prediction


@dataclass(frozen=True)
class AtS:
    """*Accept then stop*; the defaults are the published settings."""

    gamma: int = 3  # γ, the fewest points of the line
    tau: float = 5.0  # τ, the residual at which it stops, in sd of the accepted points' residuals

    version: ClassVar[int] = 1
    reads: ClassVar[tuple[Input, ...]] = ()

    @property
    def needed_sizes(self) -> int:
        """The fewest points of the line, γ."""
        return self.gamma

    def predict(self, curves: Curves, targets: Array) -> Prediction:
        """The accepted line at ``targets`` (T,).

        Raises DataError when no candidate has γ sizes.

        >>> import numpy as np
        >>> from lensllm.curves.curve import Curves
        >>> sizes = np.array([100.0, 200.0, 400.0, 800.0])
        >>> curves = Curves(("gpt2",), sizes, 3 * sizes[None, :, None] ** -0.1)
        >>> AtS(gamma=3, tau=5.0).predict(curves, np.array([6400.0])).loss.round(4)
        array([[1.2488]])
        """
        log_losses = np.log(curves.require_sizes(self.gamma, "ats"))
        log_sizes = np.log(curves.sizes)
        predicted = np.full((len(log_losses), len(targets)), np.nan)
        for i, y in enumerate(log_losses):
            seen = np.isfinite(y)
            if seen.any():
                slope, level, _ = accepted_line(log_sizes[seen], y[seen], self.gamma, self.tau)
                predicted[i] = level + slope * np.log(targets)
        return Prediction(np.exp(predicted))

    def accepted_from(self, curves: Curves) -> Array:
        """(M,) where the power phase begins: the smallest size that the walk did not reject.

        At the smallest finished size this means there or before, at the γ-th largest there or
        later. NaN for a candidate with at most γ sizes.
        """
        log_losses, log_sizes = np.log(curves.mean_losses), np.log(curves.sizes)
        start = np.full(len(log_losses), np.nan)
        for i, y in enumerate(log_losses):
            seen = np.isfinite(y)
            if seen.sum() > self.gamma:
                *_, kept = accepted_line(log_sizes[seen], y[seen], self.gamma, self.tau)
                start[i] = curves.sizes[seen][-kept]
        return start


def accepted_line(x: Array, y: Array, gamma: int, tau: float) -> tuple[float, float, int]:
    """Slope and level at x = 0 of the line on the accepted points, and how many were not rejected.

    ``x`` ascends, both (n,). From the largest x down, the next point is accepted while its residual
    is at most ``tau`` times the standard deviation of the accepted ones' (denominator: their
    number). As in the published results, the smallest x is only ever tested, never accepted, unless
    n ≤ ``gamma``.
    """
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
