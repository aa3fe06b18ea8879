"""The finished sizes of one candidate, for checks that walk along a curve."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lensllm.curves import Array, Curves
from lensllm.uncertainty import noise_log


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
