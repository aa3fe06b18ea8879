"""Overlap of pretraining and fine-tuning: are the gradients on both texts alike?

With g_i the gradients of the losses of fine-tuning examples and g′_j those of pieces of text like
the pretraining data, both read off one residual kernel as ⟨g, g′⟩ = ρ K ρ′:

- alignment = ⟨C, C′⟩ / (‖C‖ ‖C′‖) of the gradients' covariances C and C′ in the Frobenius inner
  product: the linear centred kernel alignment of Kornblith et al. (2019), in weight space, of the
  cross block Θ(X, X′) of Zeng et al. (2025, eq. 8);
- the cosine of the mean gradients: whether a small step on one text lowers the loss on the other.

Plugging in ‖HK_XX′H‖² / (‖HK_XXH‖ ‖HK_X′X′H‖) fails for a few dozen examples in many dimensions:
an example is always aligned with itself, so that the diagonal of K_XX makes ‖C‖ several times too
large. Each of the three products is therefore estimated without bias, from distinct examples only:
⟨C, C′⟩ is the mean of ¼⟨g_i − g_j, g′_k − g′_l⟩², which is what plugging in gives up to a factor,
for the two sets share no example; ‖C‖² is the mean of ¼⟨g_i − g_j, g_k − g_l⟩² over four different
examples, in closed form HSIC₁ of Song et al. (2012, eq. 5) of K_XX with itself. docs/method.md has
measurements.
"""

from __future__ import annotations

from collections.abc import Iterator
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

    Estimates are clipped to the range of alignments and cosines; standard errors are those of the
    unclipped estimates, by the jackknife over the examples of both sets. An estimate that does not
    exist without one of the examples is NaN.

    Args:
        kernel: K, (n, n).
        residual_norms: ρ, (n,).
        split: examples of the first set; both sets need five for an alignment, three for a cosine.
    """
    gram = kernel * np.outer(residual_norms, residual_norms)
    everyone = np.arange(len(gram))
    ours, theirs = everyone[:split], everyone[split:]
    values = _estimates(gram, ours, theirs)
    without_ours = np.array([_estimates(gram, rest, theirs) for rest in _without_one(ours)])
    without_theirs = np.array([_estimates(gram, ours, rest) for rest in _without_one(theirs)])
    errors = np.sqrt(_variance(without_ours) + _variance(without_theirs))
    values = np.where(np.isfinite(errors), np.clip(values, (0, -1), 1), np.nan)
    return Overlap(float(values[0]), float(errors[0]), float(values[1]), float(errors[1]))


def _without_one(indices: Indices) -> Iterator[Indices]:
    return (np.delete(indices, i) for i in range(len(indices)))


def _variance(without: Array) -> Array:
    """Jackknife variance (2,) from the estimates without each example (n, 2)."""
    found: Array = (len(without) - 1) * without.var(axis=0)
    return found


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
