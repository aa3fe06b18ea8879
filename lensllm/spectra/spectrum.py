"""F(Θ, t), the residual's decay in the kernel's eigenbasis (Zeng et al. 2025, eqs. 8–9), and how
much of it is the choice of probes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

Array = NDArray[np.float64]

_GROUPS = 32  # of probes left out in turn: an error known to 1/√62, an eighth of itself


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of K/n and the initial residual's squared coordinates in that basis."""

    eigenvalues: Array  # (n,) λ_k of K/n, descending, non-negative
    projections_squared: Array  # (n,) (u_kᵀ ρ)², ρ the residual norms of the probes

    def residual(self, t: ArrayLike) -> Array:
        """F(t) = Σ_k exp(−2 λ_k t) (u_kᵀ ρ)² at gradient-flow time ``t`` (Σ of learning rates).

        ``t`` ≥ 0 of any shape gives F of the same shape; F falls from Σρ² at 0 to ``unreachable``
        at infinity.
        """
        rates, times = self._rates, np.asarray(t, dtype=float)[..., None]
        with np.errstate(over="ignore", invalid="ignore"):  # inf decays all, and 0 · inf nothing
            exponents = np.where(rates > 0, -2.0 * rates * times, 0.0)
        left: Array = (np.exp(exponents) * self.projections_squared).sum(-1)
        return left

    def share(self, t: ArrayLike) -> Array:
        """φ(t) = F(t) / F(0), in [0, 1]; NaN where there is no residual to begin with."""
        start = float(self.residual(0.0))
        return self.residual(t) / start if start > 0 else np.full(np.shape(t), np.nan)

    @property
    def unreachable(self) -> float:
        """F(∞): the residual in the kernel's null space."""
        return float(self.residual(np.inf))

    def time(self, remaining: float) -> float:
        """t with F(t) = ``remaining``, by bisection on ln t; 0 above F(0), inf below F(∞)."""
        if np.isnan(remaining):
            return np.nan
        if remaining >= self.residual(0.0) * (1 - 1e-12):
            return 0.0
        if remaining <= self.unreachable:
            return np.inf
        positive = self._rates[self._rates > 0]
        earliest = np.log(1e-20 / positive.max())
        latest = np.log(400 / positive.min())  # exp(−2 λ t) < 1e-300 for any λ > 0

        def excess(log_t: float) -> float:
            return float(self.residual(np.exp(log_t))) - remaining

        return float(np.exp(brentq(excess, earliest, latest, xtol=1e-12)))

    @cached_property
    def _rates(self) -> Array:
        """Eigenvalues with those that are zero to rounding set to zero."""
        least = len(self.eigenvalues) * np.finfo(float).eps * self.eigenvalues.max(initial=0.0)
        return np.where(self.eigenvalues > least, self.eigenvalues, 0.0)


def spectrum(kernel: Array, residual_norms: Array) -> Spectrum:
    """Diagonalise the (n, n) residual kernel K; ``residual_norms`` is ρ, shape (n,)."""
    values, vectors = np.linalg.eigh(kernel / len(kernel))
    order = np.argsort(values)[::-1]
    projections = vectors[:, order].T @ residual_norms
    return Spectrum(np.maximum(values[order], 0.0), projections**2)


def standard_error(kernel: Array, residual_norms: Array, t: ArrayLike) -> Array:
    """Standard error of φ(t) = F(t)/F(0) by the choice of probes, of the shape of ``t``.

    The jackknife: φ without one probe after another, or without one of 32 groups of them where
    there are more probes. On average it is not below the variance (Efron and Stein 1981). The
    bootstrap must not be used here: a probe drawn twice counts as one that is learnt twice as fast,
    so that φ comes out one to three standard errors too low, with an error up to half too small.
    docs/method.md has the measurements.

    ``kernel`` is K, (n, n) with n ≥ 2, ``residual_norms`` ρ, (n,), the probes in random order.
    """
    count = len(kernel)
    groups = np.arange(count) % min(count, _GROUPS)
    without = [_share(kernel, residual_norms, groups != group, t) for group in np.unique(groups)]
    error: Array = np.sqrt((len(without) - 1) * np.var(without, axis=0))
    return error


def by_probes(
    kernel: Array, residual_norms: Array, counts: Sequence[int], t: ArrayLike
) -> tuple[Array, Array]:
    """φ(t) from fewer probes: its mean over as many disjoint sets of n as there are, and the
    standard error of one such set, (len(counts), …) each, for every n of ``counts``.

    φ depends on n, for few probes are soon learnt by heart: it rises with n at late times.
    Arguments as of ``standard_error``; 2 ≤ n ≤ the number of probes.
    """
    means, errors = [], []
    for count in counts:
        sets = [slice(i, i + count) for i in range(0, len(kernel) - count + 1, count)]
        means.append(np.mean([_share(kernel, residual_norms, s, t) for s in sets], axis=0))
        found = [standard_error(kernel[s, s], residual_norms[s], t) for s in sets]
        errors.append(np.sqrt(np.mean(np.square(found), axis=0)))
    return np.array(means), np.array(errors)


def _share(
    kernel: Array, residual_norms: Array, kept: slice | NDArray[np.bool_], t: ArrayLike
) -> Array:
    return spectrum(kernel[kept][:, kept], residual_norms[kept]).share(t)
