"""The finished sizes of one candidate, for checks that walk along a curve."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lensllm.curves.curve import Array, Curves, nan_mean

_PRIOR_NOISE_LOG = 0.004  # between seeds, where neither seeds nor three sizes show it


@dataclass(frozen=True)
class Points:
    """n points of one curve."""

    candidate: str
    sizes: Array  # (n,)
    log_losses: Array  # (n,) of the mean over the seeds
    noise: Array  # (n,) standard deviation of the log losses
    columns: NDArray[np.intp]  # (n,) their places among the sizes of all candidates


def points(curves: Curves) -> Iterator[Points]:
    """Every candidate's curve without its gaps."""
    if not np.isfinite(curves.losses).any():
        return
    noise = noise_log(curves)
    counts = np.isfinite(curves.losses).sum(-1)
    for name, losses, count in zip(curves.candidates, curves.mean_losses, counts, strict=True):
        seen = np.flatnonzero(count)
        yield Points(
            name, curves.sizes[seen], np.log(losses[seen]), noise / np.sqrt(count[seen]), seen
        )


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
    return float(np.median(bends) / (0.6745 * np.sqrt(6))) if len(bends) else _PRIOR_NOISE_LOG
