"""Fit L(D) = B / (offset + D^β) + E to many curves at once, by variable projection.

Given (β, offset) the law is linear in (B, E), so these two are solved in closed form and only the
other two are searched (Golub and Pereyra 1973): first on a grid shared by all curves, where the
sums over sizes are matrix products, then downhill from the best point of each band of β.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lensllm.curves.curve import Array
from lensllm.laws.descent import BETAS, State, basis, descend, non_negative, project

BANDS = 6  # of β, each gives a start: curves with a jump have minima far apart
NO_OFFSET = 1e-30  # D^β ≥ 1, so this is exactly 0 in double precision and has a logarithm


@dataclass(frozen=True)
class Solution:
    """Least squares of the log loss, (M,) each; NaN for a curve without cells."""

    B: Array
    beta: Array
    E: Array
    offset: Array
    sum_squares: Array  # of the log residuals


@dataclass(frozen=True)
class Grid:
    """The sum of squared p/y − 1 of every curve, (B, E) projected out, at shared (β, offset)."""

    log_betas: Array  # (K,)
    log_offsets: Array  # (N,)
    sum_squares: Array  # (K, N, M)


def grid(sizes: Array, losses: Array, betas: int, offsets: int) -> Grid:
    """Evaluate all curves; ``sizes`` (S,) ascending, ``losses`` (M, S) with NaN for missing cells.

    The offsets reach 30 D_max to the power of the largest β: beyond, E ≥ 0 leaves no slope.
    """
    log_betas = np.linspace(np.log(BETAS[0]), np.log(BETAS[1]), betas)
    log_offsets = np.linspace(np.log(1e-3), BETAS[1] * np.log(30 * sizes[-1]), offsets)
    weight = np.where(np.isfinite(losses), 1 / losses, 0.0).T  # (S, M)
    squared = weight**2
    s1, sy = squared.sum(0), weight.sum(0)
    total = np.isfinite(losses).sum(1)  # Σ w²y²
    sum_squares = np.empty((betas, offsets, len(losses)))
    for i, u in enumerate(log_betas):  # one β at a time stays in the processor's cache
        z, kappa = basis(sizes, np.full(offsets, u), log_offsets)
        sz, szz, szy = z @ squared, z**2 @ squared, z @ weight
        _, _, gain = non_negative(kappa[:, None], s1, sz, szz, sy, szy, no_floor=None)
        sum_squares[i] = total - gain
    return Grid(log_betas, log_offsets, sum_squares)


def profile(sizes: Array, losses: Array, offsets: int = 160) -> tuple[Array, Array]:
    """ln offset (N,), and (N, M) sums of squared log residuals there, (B, β, E) at their best.

    Golden sections over ln β, all offsets and curves at once, between the neighbours of the best
    point of a grid.
    """
    on = grid(sizes, losses, 40, offsets)
    log_losses, around = _prepared(losses, len(on.log_offsets))
    v = np.broadcast_to(on.log_offsets[:, None], around.shape[:2])

    def squares(u: Array) -> Array:
        return project(sizes, log_losses, u, v, around).sum_squares

    best = on.sum_squares.argmin(0)
    low = on.log_betas[np.maximum(best - 1, 0)]
    high = on.log_betas[np.minimum(best + 1, len(on.log_betas) - 1)]
    ratio = (np.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = squares(left), squares(right)
    for _ in range(12):  # to 1/300 of the bracket
        down = at_left < at_right
        low, high = np.where(down, low, left), np.where(down, right, high)
        kept, at_kept = np.where(down, left, right), np.where(down, at_left, at_right)
        new = low + high - kept
        at_new = squares(new)
        left, right = np.where(down, new, kept), np.where(down, kept, new)
        at_left, at_right = np.where(down, at_new, at_kept), np.where(down, at_kept, at_new)
    return on.log_offsets, np.minimum(at_left, at_right)


def solve(
    sizes: Array,
    losses: Array,
    lower: Array | float = 0.0,
    upper: Array | float = np.inf,
) -> Solution:
    """Fit every curve with lower ≤ offset ≤ upper (scalars or (M,)); equal bounds fix the offset.

    ``losses`` is (M, S), positive, NaN for missing cells.
    """
    on = grid(sizes, losses, betas=24, offsets=60)  # fine enough for a start in every valley
    count = len(losses)
    ceiling = np.exp(on.log_offsets[-1])
    low = np.log(np.clip(np.broadcast_to(lower, count), NO_OFFSET, ceiling))
    high = np.maximum(np.log(np.clip(np.broadcast_to(upper, count), NO_OFFSET, ceiling)), low)
    u, v = _starts(on, low, high)
    log_losses, around = _prepared(losses, len(u))
    at = project(sizes, log_losses, u, v, around)
    at = descend(sizes, log_losses, at, low, high, steps=10)
    # The optimum has either E > 0, where the problem is smooth, or E = 0, where it is smooth once
    # E is fixed: a walk along the border between the two would take hundreds of steps.
    best_two = at.sum_squares.argsort(0)[:2]
    at = at.take(np.concatenate([best_two, best_two]))
    no_floor = np.repeat([False, True], 2)[:, None]
    at = project(sizes, log_losses, at.log_beta, at.log_offset, at.loss, no_floor)
    at = descend(sizes, log_losses, at, low, high, steps=60, no_floor=no_floor)
    return _solution(sizes, at.take(at.sum_squares.argmin(0)[None]))


def _prepared(losses: Array, starts: int) -> tuple[Array, Array]:
    """Log losses (M, S) and the losses (P, M, S), 1 where missing, to linearise around."""
    filled = np.where(np.isfinite(losses), losses, 1.0)
    return np.log(losses), np.broadcast_to(filled, (starts, *losses.shape))


def _starts(on: Grid, low: Array, high: Array) -> tuple[Array, Array]:
    """(P, M) starts: per band of β the best grid point inside the bounds, and both bounds.

    On a bound the value is read at the nearest grid offset: good enough to choose β.
    """
    offsets = on.log_offsets[:, None]
    step = on.log_offsets[1] - on.log_offsets[0]
    inside = (offsets >= low - step) & (offsets <= high + step)
    squares = np.where(inside, on.sum_squares, np.inf)
    u, v = [], []
    for band in np.array_split(np.arange(len(on.log_betas)), BANDS):
        values = squares[band]
        row, column = np.unravel_index(values.reshape(-1, len(low)).argmin(0), values.shape[:2])
        u.append(on.log_betas[band[row]])
        v.append(on.log_offsets[column])
    for bound in (low, high):
        nearest = np.abs(offsets - bound).argmin(0)
        u.append(on.log_betas[on.sum_squares[:, nearest, np.arange(len(low))].argmin(0)])
        v.append(bound)
    return np.array(u), np.clip(np.array(v), low, high)


def _solution(sizes: Array, at: State) -> Solution:
    """The one start left, in the law's own parameters."""
    beta, offset = np.exp(at.log_beta[0]), np.exp(at.log_offset[0])
    found = np.isfinite(at.loss[0, :, 0])
    values = (
        at.falling[0, :, 0] * (offset + sizes[0] ** beta),
        beta,
        at.E[0],
        np.where(offset > 2 * NO_OFFSET, offset, 0.0),
        at.sum_squares[0],
    )
    return Solution(*(np.where(found, value, np.nan) for value in values))
