"""Lanczos runs for all layers in lockstep: one pass over the data per step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lensllm.hessian.quadrature import Array, Rule, exhausted, positive_part, ritz

Product = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]

# Layers up to this size keep their whole Krylov basis. Of larger ones only the last two vectors are
# kept: on real layers of 200,000 to 300,000 weights in float32 the Gauss values of the first 12
# steps then agree to 1e-4 with those of a basis kept orthogonal, and later ones stay quadrature
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
    error: float  # neither part is further than this from its value
    largest_eigenvalue: float  # largest Ritz value: at most H's largest eigenvalue
    eigenvalue_error: float  # some eigenvalue of H is no further than this from it
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
    moved its largest Ritz value by less than ``tolerance`` of it; ``steps`` is the most any layer
    takes. Holds three vectors of each layer's size, of small layers ``steps`` + 1.

    Args:
        product: symmetric products of all layers asked for, such as ``BlockHessian``.
        vectors: v of each layer, flat and not zero.
        images: H v of each layer where it is known already: the first step is then free.
    """
    runs = {layer: _Run(vector) for layer, vector in vectors.items()}
    for layer, image in (images or {}).items():
        runs[layer].extend(image / runs[layer].norm)
    while active := {layer: run for layer, run in runs.items() if not run.done(steps, tolerance)}:
        found = product({layer: run.last for layer, run in active.items()})
        for layer, run in active.items():
            run.extend(found[layer])
    return {layer: run.result() for layer, run in runs.items()}


def spectrum(product: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> Rule:
    """The Gauss rule of ``start``'s spectral measure: of all eigenvalues, if its signs are random.

    With at most ``steps`` nodes; the weights sum to 1 (Lin, Saad and Yang 2016, section 3.2).
    """
    run = _Run(start)
    while not run.done(steps, tolerance=0.0):
        run.extend(product(run.last))
    return ritz(run.diagonal, run.off[:-1])


class _Run:
    """The Krylov basis of one layer, or its end, and its tridiagonal coefficients."""

    def __init__(self, start: Tensor) -> None:
        self.norm = math.sqrt(inner(start, start))
        self._basis = [start / self.norm]
        self._diagonal: list[float] = []
        self._off: list[float] = []
        self._complete = False

    @property
    def last(self) -> Tensor:
        """The basis vector whose image is wanted."""
        return self._basis[-1]

    @property
    def diagonal(self) -> Array:
        """(k,) after k steps."""
        return np.array(self._diagonal)

    @property
    def off(self) -> Array:
        """(k,), the last one the norm of what the next basis vector is made of."""
        return np.array(self._off)

    def extend(self, image: Tensor) -> None:
        """Take ``image`` = H times the last basis vector."""
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
        """Whether ``steps`` are taken or no more is to be learnt."""
        taken = len(self._diagonal)
        return self._complete or taken >= steps or (taken > 1 and self._settled(tolerance))

    def _settled(self, tolerance: float) -> bool:
        taken = len(self._diagonal)
        before, largest = (
            float(ritz(self.diagonal[:k], self.off[: k - 1]).nodes[-1]) for k in (taken - 1, taken)
        )
        if abs(largest - before) > tolerance * abs(largest):
            return False
        found = self.result()
        return found.error <= tolerance * (found.positive + found.negative)

    def result(self) -> Quadratic:
        square = self.norm**2
        found = positive_part(self.diagonal, self.off)
        rule = ritz(self.diagonal, self.off[:-1])
        return Quadratic(
            positive=square * found.estimate,
            negative=square * max(found.estimate - self._diagonal[0], 0.0),
            error=square * max(found.high - found.estimate, found.estimate - found.low),
            largest_eigenvalue=float(rule.nodes[-1]),
            eigenvalue_error=self._off[-1] * abs(float(rule.last[-1])),
            steps=len(self._diagonal),
        )
