"""Damped Gauss-Newton on (ln β, ln offset) for many curves and starts at once.

The residual is the true one, in log loss. (B, E) are solved anew at every point and their columns
are projected out of the Jacobian (Kaufman 1975), so a step is a 2×2 system in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lensllm.laws.linear import Array, Mask, basis, non_negative

BETAS = (0.01, 2.0)  # published fine-tuning curves lie in .05–1.3 (Lin 2024); slack on both sides
_MOST_DAMPING = 1e6  # steps this short change nothing


@dataclass(frozen=True)
class State:
    """One point per start and curve: (P, M) arrays, but (P, M, S) ``loss`` and ``falling``."""

    log_beta: Array
    log_offset: Array
    loss: Array  # fitted
    falling: Array  # fitted loss − E, the part that falls with D
    E: Array
    sum_squares: Array  # of the log residuals
    no_floor: Mask  # E is fixed at 0

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
    sizes: Array, log_losses: Array, u: Array, v: Array, around: Array, no_floor: Mask
) -> State:
    """Solve (B, E) at ln β = ``u``, ln offset = ``v``, (P, M), for ``log_losses`` (M, S) with NaN.

    The log residual is linearised twice, first at the losses ``around`` (P, M, S): the error left
    is of the order of the residual to the fourth power.
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
    return State(u, v, loss, loss - E[..., None], E, (residual**2).sum(-1), no_floor)


def descend(
    sizes: Array, log_losses: Array, at: State, low: Array, high: Array, steps: int
) -> State:
    """Walk every start downhill, ``low`` ≤ ln offset ≤ ``high`` (M,), until nothing moves."""
    damping = np.full(at.E.shape, 1e-2)
    for _ in range(steps):
        du, dv = _step(sizes, log_losses, at, damping, low, high)
        u = np.clip(at.log_beta + du, *np.log(BETAS))
        v = np.clip(at.log_offset + dv, low, high)
        trial = project(sizes, log_losses, u, v, at.loss, at.no_floor)
        better = trial.sum_squares < at.sum_squares
        still = np.where(
            better, trial.sum_squares > (1 - 1e-9) * at.sum_squares, damping >= _MOST_DAMPING
        )
        at = trial.where(better, at)
        if still.all():
            break
        damping = np.clip(np.where(better, damping / 5, damping * 5), 1e-9, _MOST_DAMPING)
    return at


def _step(
    sizes: Array, log_losses: Array, at: State, damping: Array, low: Array, high: Array
) -> tuple[Array, Array]:
    """Steps in (ln β, ln offset), (P, M) each; a coordinate pushed against its bound stays."""
    mask = np.isfinite(log_losses)
    columns = [*_log_jacobian(sizes, at, mask), np.where(mask, np.log(at.loss) - log_losses, 0.0)]
    for i in (0, 1):  # what (B, E) can answer
        columns[i + 1 :] = [_without(columns[i], column) for column in columns[i + 1 :]]
    _, _, ju, jv, r = columns
    gu, gv = (ju * r).sum(-1), (jv * r).sum(-1)
    free_u = _free(at.log_beta, gu, np.log(BETAS[0]), np.log(BETAS[1]))
    free_v = _free(at.log_offset, gv, low, high)
    gu, gv = gu * free_u, gv * free_v
    cross = (ju * jv).sum(-1) * (free_u & free_v)
    uu = (ju**2).sum(-1) * (1 + damping) + 1e-30
    vv = (jv**2).sum(-1) * (1 + damping) + 1e-30
    determinant = uu * vv - cross**2
    du = np.clip((cross * gv - vv * gu) / determinant, -1.0, 1.0)
    dv = np.clip((cross * gu - uu * gv) / determinant, -5.0, 5.0)
    return du, dv


def _log_jacobian(sizes: Array, at: State, mask: Mask) -> list[Array]:
    """Derivatives of ln loss, (P, M, S) each, by ln B, E (0 where E = 0), ln β and ln offset.

    Missing cells, where ``mask`` (M, S) is false, have 0.
    """
    exponent = np.exp(at.log_beta)[..., None] * np.log(sizes)
    ratio: Array = np.exp(np.minimum(at.log_offset[..., None] - exponent, 700.0))  # offset / D^β
    relative = at.falling / at.loss * mask
    return [
        relative,
        np.where(at.E[..., None] > 0, mask / at.loss, 0.0),
        -relative * exponent / (1 + ratio),
        -relative * ratio / (1 + ratio),
    ]


def _without(direction: Array, column: Array) -> Array:
    """``column`` less its part along ``direction``, over the last axis."""
    norm = np.maximum((direction**2).sum(-1, keepdims=True), 1e-300)
    along: Array = direction * (direction * column).sum(-1, keepdims=True) / norm
    return column - along


def _free(x: Array, gradient: Array, low: Array | float, high: Array | float) -> Mask:
    pushed: Mask = ((x <= low) & (gradient > 0)) | ((x >= high) & (gradient < 0))
    return ~pushed
