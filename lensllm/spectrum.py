"""F(Θ, t), the residual's decay in the kernel's eigenbasis (Zeng et al. 2025, eqs. 8–9)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of K/n and the initial residual's squared coordinates in that basis."""

    eigenvalues: Array  # (n,) λ_k of K/n, descending, non-negative
    projections_squared: Array  # (n,) (u_kᵀ ρ)², ρ the residual norms of the probes

    def residual(self, t: ArrayLike) -> Array:
        """F(t) = Σ_k exp(−2 λ_k t) (u_kᵀ ρ)² at gradient-flow time ``t`` (Σ of learning rates).

        ``t`` of any shape gives F of the same shape; F falls from Σρ² at 0 to the part of the
        residual that the tangent space cannot reach.
        """
        times = np.asarray(t, dtype=float)[..., None]
        left: Array = (np.exp(-2.0 * self.eigenvalues * times) * self.projections_squared).sum(-1)
        return left


def spectrum(kernel: Array, residual_norms: Array) -> Spectrum:
    """Diagonalise the (n, n) residual kernel K; ``residual_norms`` is ρ, shape (n,)."""
    values, vectors = np.linalg.eigh(kernel / len(kernel))
    order = np.argsort(values)[::-1]
    projections = vectors[:, order].T @ residual_norms
    return Spectrum(np.maximum(values[order], 0.0), projections**2)
