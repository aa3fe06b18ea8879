"""The linear half of the law B / (offset + D^β) + E: the best (B, E) at given (β, offset).

Written p = a z + b with z(D) = (x(D) − x(D_max)) / (x(D_min) − x(D_max)), x = 1/(offset + D^β).
However large the offset, z spans [0, 1], so nothing cancels. B ≥ 0 is a ≥ 0, and E ≥ 0 is b ≥ κ a
with κ = (offset + D_min^β) / (D_max^β − D_min^β); E = b − κ a.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


def basis(sizes: Array, log_beta: Array, log_offset: Array) -> tuple[Array, Array]:
    """z (..., S) and κ (...) at the points (...); ``sizes`` is (S,), ascending."""
    power = np.exp(np.exp(log_beta)[..., None] * np.log(sizes))
    offset = np.exp(log_offset)[..., None]
    first, last = power[..., :1], power[..., -1:]
    span = np.maximum(last - first, np.finfo(float).tiny)  # a single size has none
    z = (last - power) / span * (offset + first) / (offset + power)
    return z, ((offset + first) / span)[..., 0]


def non_negative(
    kappa: Array, s1: Array, sz: Array, szz: Array, sy: Array, szy: Array, no_floor: Mask | None
) -> tuple[Array, Array, Array]:
    """Minimise Σ w²(a z + b − y)² over a ≥ 0, b ≥ κ a; arrays of one broadcast shape.

    Takes the weighted sums s1 = Σw², sz = Σw²z, szz = Σw²z², sy = Σw²y, szy = Σw²zy. Where
    ``no_floor`` holds, E is fixed at 0. Returns a, b and by how much the sum falls below Σw²y².
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (szy - sz * sy / s1) / (szz - sz**2 / s1)
        level = (sy - slope * sz) / s1
        through = (szy + kappa * sy) / (szz + kappa * (2 * sz + kappa * s1))  # E = 0
        pinned = level < kappa * slope
        if no_floor is not None:
            pinned |= no_floor
        a = np.where(pinned, through, slope)
        b = np.where(pinned, kappa * through, level)
        flat = ~(a > 0)  # a rising curve, or a single point: B = 0
        a, b = np.where(flat, 0.0, a), np.where(flat, sy / s1, b)
    return a, b, a * szy + b * sy
