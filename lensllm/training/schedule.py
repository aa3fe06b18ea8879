"""At which learning rate a step is made, and on which examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

# Batches are cut from pools of this many, each pool sorted by length: little padding, and still
# another composition of batches in every epoch.
_POOL_BATCHES = 16


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """Linear rise over the first ``warmup`` share of ``steps``, then linear fall to 0."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return peak * (step + 1) / rise
    return peak * (steps - step) / max(1, steps - rise)


def batches(
    lengths: Sequence[int], size: int, generator: np.random.Generator
) -> Iterator[list[int]]:
    """Indices of one epoch's batches: every example once, like lengths together."""
    order = generator.permutation(len(lengths))
    cut: list[list[int]] = []
    for start in range(0, len(order), size * _POOL_BATCHES):
        pool = sorted(order[start : start + size * _POOL_BATCHES].tolist(), key=lengths.__getitem__)
        cut += [pool[i : i + size] for i in range(0, len(pool), size)]
    for i in generator.permutation(len(cut)):
        yield cut[i]
