"""Damped Gauss-Newton on (ln β, ln offset) of the log loss, for many curves and starts at once.

(B, E) are solved anew at every point and their columns are projected out of the Jacobian (Kaufman
1975), so a step is a 2×2 system in closed form.

For the linear half, the best (B, E) at given (β, offset), the law B / (offset + D^β) + E is written
p = a z + b with z(D) = (x(D) − x(D_max)) / (x(D_min) − x(D_max)), x = 1/(offset + D^β). However
large the offset, z spans [0, 1], so nothing cancels. B ≥ 0 is a ≥ 0, and E ≥ 0 is b ≥ κ a with
κ = (offset + D_min^β) / (D_max^β − D_min^β); E = b − κ a.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lensllm.curves.curve import Array, Mask

BETAS = (0.01, 2.0)  # published fine-tuning curves lie in .05–1.3 (Lin 2024); slack on both sides
_MOST_DAMPING = 1e6  # steps this short change nothing
_NOTHING = 1e-9  # too small a part of the sum of squares to walk for
_EXACT = 1e-24  # a sum of squares that is rounding alone


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


@dataclass(frozen=True)
class State:
    """One point per start and curve: (P, M) arrays, but (P, M, S) ``loss`` and ``falling``."""

    log_beta: Array
    log_offset: Array
    loss: Array  # fitted
    falling: Array  # fitted loss − E, the part that falls with D
    E: Array
    sum_squares: Array  # of the log residuals

    def where(self, condition: Mask, other: State) -> State:
        """This state where ``condition`` (P, M) holds, ``other`` elsewhere."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return State(
            *(np.where(condition[..., None] if a.ndim == 3 else condition, a, b) for a, b in pairs)
        )

    def take(self, starts: NDArray[np.intp]) -> State:
        """The starts at ``starts`` (Q, M) of every curve."""
        index = starts, np.arange(self.E.shape[1])
        return State(*(value[index] for value in vars(self).values()))


def project(
    sizes: Array,
    log_losses: Array,
    u: Array,
    v: Array,
    around: Array,
    no_floor: Mask | None = None,
) -> State:
    """Solve (B, E) at ln β = ``u``, ln offset = ``v``, (P, M), for ``log_losses`` (M, S) with NaN.

    Where the mask ``no_floor`` (P, 1) holds, E is fixed at 0. The log residual is linearised twice,
    first at the losses ``around`` (P, M, S).
    """
    z, kappa = basis(sizes, u, v)
    mask = np.isfinite(log_losses)
    log_y = np.where(mask, log_losses, 0.0)
    loss, E = around, kappa
    for _ in range(2):
        # ln p ≈ ln p₀ + p/p₀ − 1; floored, so that p stays positive a factor e away from p₀
        target = np.maximum(1 + log_y - np.log(loss), 0.1)
        weight = mask / loss
        zw = z * weight
        s1, sz, szz = (weight**2).sum(-1), (zw * weight).sum(-1), (zw**2).sum(-1)
        sy, szy = (weight * target).sum(-1), (zw * target).sum(-1)
        a, b, _ = non_negative(kappa, s1, sz, szz, sy, szy, no_floor)
        loss = a[..., None] * z + b[..., None]
        E = np.where(b - kappa * a > 1e-12 * b, b - kappa * a, 0.0)
    residual = np.where(mask, np.log(loss) - log_y, 0.0)
    return State(u, v, loss, loss - E[..., None], E, (residual**2).sum(-1))


def descend(
    sizes: Array,
    log_losses: Array,
    at: State,
    low: Array,
    high: Array,
    steps: int,
    no_floor: Mask | None = None,
) -> State:
    """Walk every start downhill, ``low`` ≤ ln offset ≤ ``high`` (M,).

    Ends when no start would get below its curve's best if it gained twice what it expects to.
    """
    damping = np.full(at.E.shape, 1e-2)
    for _ in range(steps):
        du, dv, gain = _step(sizes, log_losses, at, damping, low, high)
        best = at.sum_squares.min(0)
        hopeful = at.sum_squares - 2 * gain < (1 - _NOTHING) * best - _EXACT
        if not hopeful.any():
            break
        u = np.clip(at.log_beta + du, *np.log(BETAS))
        v = np.clip(at.log_offset + dv, low, high)
        trial = project(sizes, log_losses, u, v, at.loss, no_floor)
        better = trial.sum_squares < at.sum_squares
        at = trial.where(better, at)
        damping = np.clip(np.where(better, damping / 5, damping * 5), 1e-9, _MOST_DAMPING)
    return at


def _step(
    sizes: Array, log_losses: Array, at: State, damping: Array, low: Array, high: Array
) -> tuple[Array, Array, Array]:
    """Steps in (ln β, ln offset) and by how much the sum of squares should fall, (P, M) each.

    A coordinate pushed against its bound stays.
    """
    columns = _columns(sizes, log_losses, at)
    for i in (0, 1):  # what (B, E) can answer
        columns[i + 1 :] -= _along(columns[i], columns[i + 1 :])
    ju, jv, r = columns[2:]
    gu, gv = np.vecdot(ju, r), np.vecdot(jv, r)
    free_u = _free(at.log_beta, gu, np.log(BETAS[0]), np.log(BETAS[1]))
    free_v = _free(at.log_offset, gv, low, high)
    gu, gv = gu * free_u, gv * free_v
    cross = np.vecdot(ju, jv) * (free_u & free_v)
    uu = np.vecdot(ju, ju) * (1 + damping) + 1e-30
    vv = np.vecdot(jv, jv) * (1 + damping) + 1e-30
    dv = np.clip((cross * gu - uu * gv) / (uu * vv - cross**2), -5.0, 5.0)
    du = np.clip(-(gu + cross * dv) / uu, -1.0, 1.0)  # the best beside a shortened dv
    dv = np.clip(-(gv + cross * du) / vv, -5.0, 5.0)  # and beside a shortened du
    gain = -(2 * gu + uu * du + cross * dv) * du - (2 * gv + cross * du + vv * dv) * dv
    return du, dv, gain


def _columns(sizes: Array, log_losses: Array, at: State) -> Array:
    """(5, P, M, S): derivatives of ln loss by ln B, E (0 where E = 0), ln β, ln offset; residual.

    Missing cells have 0.
    """
    mask = np.isfinite(log_losses)
    exponent = np.exp(at.log_beta)[..., None] * np.log(sizes)
    ratio = np.exp(np.minimum(at.log_offset[..., None] - exponent, 700.0))  # offset / D^β
    relative = at.falling / at.loss * mask
    by_power = -relative / (1 + ratio)
    return np.stack(
        [
            relative,
            np.where(at.E[..., None] > 0, mask / at.loss, 0.0),
            by_power * exponent,
            by_power * ratio,
            np.where(mask, np.log(at.loss) - log_losses, 0.0),
        ]
    )


def _along(direction: Array, columns: Array) -> Array:
    """The parts of ``columns`` (K, …, S) along ``direction`` (…, S)."""
    norm = np.maximum(np.vecdot(direction, direction), 1e-300)
    part: Array = (np.vecdot(direction, columns) / norm)[..., None] * direction
    return part


def _free(x: Array, gradient: Array, low: Array | float, high: Array | float) -> Mask:
    pushed: Mask = ((x <= low) & (gradient > 0)) | ((x >= high) & (gradient < 0))
    return ~pushed
