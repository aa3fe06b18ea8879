"""The part of a curve beside its law: a Gaussian process over doublings, a jump or an outlier.

The process is a smooth one or an integrated Wiener process whose slope may drift; each in a mixture
with one level jump or one outlier anywhere. The prior on the curve's level is flat.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lensllm.curves.curve import Array

Kernel = Callable[[Array, Array], Array]  # covariance of the log loss at doublings (n,), (k,)

_NOISE = 0.004  # sd of a run's log loss, on observed points only
_JUMP = 0.05  # sd of a jump or outlier in log loss
_NEITHER, _ONE = 0.8, 0.1  # prior chances of no jump and outlier, and of one of either


@dataclass(frozen=True)
class Component:
    """One member of the mixture, for residuals r (n,) from the law's shape."""

    level: Array  # (n,) best level of the curve: level · r
    precision: Array  # (n, n) log evidence: log_weight − ½ rᵀ precision r
    log_weight: float
    gain: Array  # (n, T) what r adds to the level at the targets: r · gain
    variance: Array  # (T,) of the log loss at the targets


def smooth(a: Array, b: Array) -> Array:
    """A hump over about three doublings, and a random walk."""
    distance = a[:, None] - b
    return 0.02**2 * np.exp(-0.5 * (distance / 3) ** 2) + 0.004**2 * np.minimum(a[:, None], b)


def integrated(a: Array, b: Array) -> Array:
    """A random walk and one whose slope walks."""
    low, high = np.minimum(a[:, None], b), np.maximum(a[:, None], b)
    return 0.003**2 * (low + low**2 * high / 2 - low**3 / 6)


KERNELS: tuple[Kernel, ...] = (smooth, integrated)


def components(seen: Array, targets: Array, kernel: Kernel) -> list[Component]:
    """The mixture for curves observed at ``seen`` (n,) doublings, asked at ``targets`` (T,)."""
    count = len(seen)
    place = np.arange(count)
    kinds = [(np.zeros(count), 0.0, _NEITHER)]
    # a jump stays, so that the targets have it too; an outlier does not
    kinds += [((place >= k).astype(float), 1.0, _ONE / (count - 1)) for k in range(1, count)]
    kinds += [((place == k).astype(float), 0.0, _ONE / count) for k in range(count)]
    covariance = kernel(seen, seen) + _NOISE**2 * np.eye(count)
    across, there = kernel(seen, targets), kernel(targets, targets).diagonal()
    return [
        _component(
            covariance + _JUMP**2 * np.outer(shift, shift),
            across + _JUMP**2 * at_target * shift[:, None],
            there + _JUMP**2 * at_target,
            chance,
        )
        for shift, at_target, chance in kinds
    ]


def _component(covariance: Array, across: Array, there: Array, chance: float) -> Component:
    inverse = np.linalg.inv(covariance)
    sums = inverse.sum(0)
    total = float(sums.sum())
    precision = inverse - np.outer(sums, sums) / total
    log_determinant = float(np.linalg.slogdet(covariance)[1])
    known = (across * (inverse @ across)).sum(0)
    return Component(
        level=sums / total,
        precision=precision,
        log_weight=float(np.log(chance)) - 0.5 * (log_determinant + float(np.log(total))),
        gain=precision @ across,
        variance=there - known + (1 - sums @ across) ** 2 / total,
    )
