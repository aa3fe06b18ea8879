"""vᵀH⁺v and vᵀH⁻v of every layer from few Hessian products, by Lanczos quadrature.

k Lanczos steps on H from the unit vector u fix the first 2k moments of u's spectral measure μ, and
the Gauss rule estimates uᵀH⁺u = ∫ max(λ, 0) dμ (Golub and Meurant 1994). Fine-tuning puts nearly
all weight near the kink at 0, so the Gauss value overshoots, tenfold at times, and its change over
the last step proves nothing. Two properties do:

- every measure with the known moments lies between two rules that add one node: a node at the kink
  gives the least value, and the largest is found by moving that node (Chebyshev–Markov extremal
  measures; after one step it is Scarf's 1958 bound);
- the median of the last four Gauss values ignores the overshoots.

The runs of all layers advance in lockstep, so that one pass over the data serves a step of all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor

Array = NDArray[np.float64]

_MEDIAN_OF = 4  # of 3 … 6 the one with the smallest error at 6 to 12 steps on a small GPT-2
_EXHAUSTED = 1e-6  # residual relative to H at which the Krylov space is complete
_ANGLE = 1e-4  # tolerance of the search for the maximum, whose value is right to its square


@dataclass(frozen=True)
class PositivePart:
    """∫ max(λ, 0) dμ of a unit vector's spectral measure."""

    estimate: float
    low: float  # least value of any measure with the known moments
    high: float  # largest such value


@dataclass(frozen=True)
class GaussRule:
    """The Gauss rule of k Lanczos steps: nodes are Ritz values, ascending; all arrays are (k,)."""

    nodes: Array
    weights: Array  # squares of the Ritz vectors' first components: they sum to 1
    last: Array  # the Ritz vectors' last components; small ones mark converged nodes

    @property
    def positive(self) -> float:
        """Σ weight · max(node, 0)."""
        return float(self.weights @ np.maximum(self.nodes, 0.0))


def gauss_rule(diagonal: Array, off: Array) -> GaussRule:
    """The Gauss rule of a tridiagonal matrix with ``diagonal`` (k,) and ``off`` (k − 1,)."""
    nodes, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1))
    return GaussRule(nodes, vectors[0] ** 2, vectors[-1])


def exhausted(diagonal: Array, off: Array) -> bool:
    """True if the k steps span an invariant space, so that the Gauss rule is exact."""
    scale = max(np.abs(diagonal).max(), np.abs(off[:-1]).max(initial=0.0))
    return bool(off[-1] <= _EXHAUSTED * scale)


def positive_part(diagonal: Array, off: Array) -> PositivePart:
    """Estimate and bounds of ∫ max(λ, 0) dμ from the coefficients α, β (k,) of Lanczos."""
    steps = len(diagonal)
    first = max(1, steps - _MEDIAN_OF + 1)
    values = [gauss_rule(diagonal[:k], off[: k - 1]).positive for k in range(first, steps + 1)]
    if exhausted(diagonal, off):
        return PositivePart(values[-1], values[-1], values[-1])
    low, high = _extremes(diagonal, off)
    return PositivePart(float(np.clip(np.median(values), low, high)), low, high)


def _extremes(diagonal: Array, off: Array) -> tuple[float, float]:
    """Least and largest value over the last entry α of a (k + 1)-node rule.

    As α = β_k tan φ goes once round the projective line, the value rises from its minimum, where a
    node is at 0, to its maximum and falls back.
    """

    def value(angle: float) -> float:
        return gauss_rule(np.append(diagonal, off[-1] * math.tan(angle)), off).positive

    rule = gauss_rule(diagonal, off[:-1])
    nodes = np.where(rule.nodes == 0.0, np.finfo(float).tiny, rule.nodes)
    at_zero = math.atan(off[-1] * float(np.sum(rule.last**2 / nodes)))
    found = minimize_scalar(
        lambda angle: -value(angle),
        bounds=(at_zero, at_zero + math.pi),
        method="bounded",
        options={"xatol": _ANGLE},
    )
    return value(at_zero), -float(found.fun)


Product = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]

# Layers up to this size keep their whole Krylov basis, larger ones the last two vectors: at 200,000
# weights and more, the Gauss values of the first 12 steps then agree to 1e-4, and later ones are
# rules of nearly the same measure, with nodes that repeat (Greenbaum 1989).
_SMALL = 2**16


def inner(a: Tensor, b: Tensor) -> float:
    """⟨a, b⟩, summed pairwise: a dot product in float32 would lose digits over many weights."""
    return float((a * b).sum())


@dataclass(frozen=True)
class Quadratic:
    """vᵀHv of one layer, split by the sign of H's eigenvalues."""

    positive: float  # vᵀH⁺v
    negative: float  # vᵀH⁻v, non-negative; positive − negative = vᵀHv
    error: float  # bound on the error of either part
    largest_eigenvalue: float  # largest Ritz value: at most H's largest eigenvalue
    eigenvalue_error: float  # distance from it within which H has an eigenvalue
    steps: int


def positive_quadratic(
    product: Product,
    vectors: Mapping[str, Tensor],
    steps: int,
    *,
    tolerance: float = 0.1,
    images: Mapping[str, Tensor] | None = None,
) -> dict[str, Quadratic]:
    """vᵀH⁺v of every layer by Lanczos started at v/‖v‖.

    A layer leaves the lockstep when its error is at most ``tolerance`` of vᵀ|H|v and the last step
    moved its largest Ritz value by less than ``tolerance`` of it, or after ``steps``.

    Args:
        product: symmetric products of all layers asked for, such as ``BlockHessian``.
        vectors: v of each layer, flat and not zero.
        images: H v of layers where it is known already, which saves the first step.
    """
    runs = {layer: _Run(vector) for layer, vector in vectors.items()}
    for layer, image in (images or {}).items():
        runs[layer].extend(image / runs[layer].norm)
    while active := {layer: run for layer, run in runs.items() if not run.done(steps, tolerance)}:
        found = product({layer: run.last for layer, run in active.items()})
        for layer, run in active.items():
            run.extend(found[layer])
    return {layer: run.result() for layer, run in runs.items()}


def spectral_density(product: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> GaussRule:
    """Density of H's eigenvalues: the Gauss rule of ``start``, a flat vector of random signs.

    At most ``steps`` nodes, whose weights sum to 1 (Lin, Saad and Yang 2016, section 3.2).
    """
    run = _Run(start)
    while not run.done(steps, tolerance=0.0):
        run.extend(product(run.last))
    return gauss_rule(run.diagonal, run.off[:-1])


class _Run:
    """Lanczos on one layer: the end of its Krylov basis and its tridiagonal coefficients."""

    def __init__(self, start: Tensor) -> None:
        self.norm = math.sqrt(inner(start, start))
        self._basis = [start / self.norm]
        self._diagonal: list[float] = []
        self._off: list[float] = []
        self._complete = False

    @property
    def last(self) -> Tensor:
        """The basis vector whose image under H is needed next."""
        return self._basis[-1]

    @property
    def diagonal(self) -> Array:
        """(k,) after k steps."""
        return np.array(self._diagonal)

    @property
    def off(self) -> Array:
        """(k,) after k steps; the last entry is the unscaled norm of the next basis vector."""
        return np.array(self._off)

    def extend(self, image: Tensor) -> None:
        """Add a step, from ``image`` = H times the last basis vector."""
        self._diagonal.append(inner(image, self.last))
        if len(image) > _SMALL:
            del self._basis[:-2]
        for vector in self._basis * 2:  # twice is enough (Parlett 1980)
            image = torch.sub(image, vector, alpha=inner(image, vector))
        self._off.append(math.sqrt(inner(image, image)))
        self._complete = exhausted(self.diagonal, self.off)
        if not self._complete:
            self._basis.append(image / self._off[-1])

    def done(self, steps: int, tolerance: float) -> bool:
        """True if ``steps`` are taken, the space is complete, or the result has settled."""
        taken = len(self._diagonal)
        return self._complete or taken >= steps or (taken > 1 and self._settled(tolerance))

    def _settled(self, tolerance: float) -> bool:
        found, before = self.result(), gauss_rule(self.diagonal[:-1], self.off[:-2]).nodes[-1]
        largest = found.largest_eigenvalue
        if abs(largest - before) > tolerance * abs(largest):
            return False
        return found.error <= tolerance * (found.positive + found.negative)

    def result(self) -> Quadratic:
        square = self.norm**2
        found = positive_part(self.diagonal, self.off)
        rule = gauss_rule(self.diagonal, self.off[:-1])
        return Quadratic(
            positive=square * found.estimate,
            negative=square * max(found.estimate - self._diagonal[0], 0.0),
            error=square * max(found.high - found.estimate, found.estimate - found.low),
            largest_eigenvalue=float(rule.nodes[-1]),
            eigenvalue_error=self._off[-1] * abs(float(rule.last[-1])),
            steps=len(self._diagonal),
        )
