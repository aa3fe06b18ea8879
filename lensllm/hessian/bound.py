"""The terms of the Hessian generalisation bound.

Zeng et al. 2025, Theorem 1, after Ju, Li and Zhang 2022: with probability 0.99

    L(ŵ) ≤ (1 + ε) L̂(ŵ) + (1 + ε)/√n · Σ_layers √(C h_i) + O(n^(−3/4)),

v_i = ŵ_i − w_i the distance moved from the pretrained weights, h_i the largest v_iᵀ H_i⁺ v_i over
single training examples, C a bound on the loss. A diagnostic, never a ranking: cross-entropy has no
bound, so C is the largest loss seen, and h_i is the largest over the examples looked at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Bound:
    """The terms of Theorem 1 without its remainder, losses in nats per token."""

    train_term: float  # (1 + ε) L̂
    curvature_term: float  # (1 + ε)/√n Σ √(C h_i)

    @property
    def bound(self) -> float:
        return self.train_term + self.curvature_term


def bound_terms(
    train: float, largest_loss: float, h: Sequence[float], subset_size: int, epsilon: float
) -> Bound:
    """Theorem 1 without its remainder: L̂ = ``train``, C = ``largest_loss``, n = ``subset_size``."""
    spread = sum(math.sqrt(largest_loss * value) for value in h)
    return Bound((1 + epsilon) * train, (1 + epsilon) / math.sqrt(subset_size) * spread)
