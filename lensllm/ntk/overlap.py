"""Overlap of pretraining and fine-tuning: are the gradients on both texts alike?

With g_i the gradients of fine-tuning examples and g′_j those of pieces of text like the pretraining
data, ⟨g, g′⟩ = ρ K ρ′ of one residual kernel:

- alignment = ⟨C, C′⟩ / (‖C‖ ‖C′‖) of the gradients' covariances C and C′: the linear centred kernel
  alignment of Kornblith et al. (2019), in weight space, of Θ(X, X′) of Zeng et al. (2025, eq. 8);
- the cosine of the mean gradients: whether a small step on one text lowers the loss on the other.

Each of the three products is estimated without bias, from distinct examples only, as the diagonal
of K_XX would make ‖C‖ several times too large: ⟨C, C′⟩ is the mean of ¼⟨g_i − g_j, g′_k − g′_l⟩²,
and ‖C‖² that of ¼⟨g_i − g_j, g_k − g_l⟩² over four different examples, in closed form HSIC₁ of Song
et al. (2012, eq. 5) of K_XX with itself. docs/method.md has measurements.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Overlap:
    """Similarity of two sets of gradients.

    NaN if the examples are too few or too noisy to tell a covariance or mean from zero.
    """

    alignment: float  # alignment of the centred gradients, in [0, 1]
    alignment_standard_error: float  # due to the choice of examples
    mean_gradient_cosine: float  # in [−1, 1]
    mean_gradient_cosine_standard_error: float


def alignment(kernel: Array, residual_norms: Array, split: int) -> Overlap:
    """Overlap of the first ``split`` examples with the others, which are of another text.

    ``kernel`` is K (n, n), ``residual_norms`` ρ (n,). Standard errors are those of the unclipped
    estimates, by the jackknife over the examples of both sets, which need five examples each for an
    alignment and three for a cosine.
    """
    gram = kernel * np.outer(residual_norms, residual_norms)
    everyone = np.arange(len(gram))
    ours, theirs = everyone[:split], everyone[split:]
    values = _estimates(gram, ours, theirs)
    without_ours = np.array([_estimates(gram, ours[ours != i], theirs) for i in ours])
    without_theirs = np.array([_estimates(gram, ours, theirs[theirs != i]) for i in theirs])
    errors = np.sqrt(_variance(without_ours) + _variance(without_theirs))
    values = np.where(np.isfinite(errors), np.clip(values, (0, -1), 1), np.nan)
    return Overlap(float(values[0]), float(errors[0]), float(values[1]), float(errors[1]))


def _variance(without: Array) -> Array:
    """Jackknife variance (2,) from the estimates without each example (n, 2)."""
    variance: Array = (len(without) - 1) * without.var(axis=0)
    return variance


def _estimates(gram: Array, ours: Indices, theirs: Indices) -> Array:
    """Alignment and cosine of the mean gradients, (2,), from these examples."""
    own, other, cross = (
        gram[np.ix_(rows, columns)]
        for rows, columns in ((ours, ours), (theirs, theirs), (ours, theirs))
    )
    centred = cross - cross.mean(0) - cross.mean(1)[:, None] + cross.mean()
    shared = (centred**2).sum() / ((len(ours) - 1) * (len(theirs) - 1))
    return np.array(
        [
            _cosine(shared, _covariance_squared(own), _covariance_squared(other)),
            _cosine(cross.mean(), _mean_squared(own), _mean_squared(other)),
        ]
    )


def _cosine(product: float, squared: float, other_squared: float) -> float:
    """Cosine from a product and two squares; NaN if a square is not estimated to be positive."""
    if min(squared, other_squared) > 0:
        return float(product / np.sqrt(squared * other_squared))
    return np.nan


def _covariance_squared(gram: Array) -> float:
    """‖C‖² without bias, from the inner products (n, n); NaN for n < 4."""
    n = len(gram)
    if n < 4:
        return np.nan
    pairs = gram - np.diag(np.diag(gram))
    sums = pairs.sum(0)
    total = (pairs**2).sum() + sums.sum() ** 2 / ((n - 1) * (n - 2)) - 2 / (n - 2) * (sums @ sums)
    return float(total / (n * (n - 3)))


def _mean_squared(gram: Array) -> float:
    """‖E g‖² without bias, from the inner products (n, n); NaN for n < 2."""
    n = len(gram)
    return float((gram.sum() - gram.trace()) / (n * (n - 1))) if n > 1 else np.nan
