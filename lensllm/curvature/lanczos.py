"""Lanczos runs for all layers in lockstep: one pass over the data per step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lensllm.curvature.quadrature import exhausted, gauss, positive_part

Product = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


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
    steps: int


def positive_quadratic(
    product: Product, vectors: Mapping[str, Tensor], steps: int, *, tolerance: float = 0.05
) -> dict[str, Quadratic]:
    """vᵀH⁺v of every layer by Lanczos started at v/‖v‖, with full reorthogonalisation.

    A layer leaves the lockstep when its error is below ``tolerance`` of vᵀ|H|v and its largest
    Ritz value has settled as well; ``steps`` is the most any layer takes. Holds ``steps`` + 1
    vectors of each layer's size.

    Args:
        product: symmetric products of all layers asked for, such as ``BlockHessian``.
        vectors: v of each layer, flat and not zero.
    """
    runs = {layer: _Run(vector) for layer, vector in vectors.items()}
    for _ in range(steps):
        active = {layer: run for layer, run in runs.items() if not run.settled(tolerance)}
        if not active:
            break
        images = product({layer: run.basis[-1] for layer, run in active.items()})
        for layer, run in active.items():
            run.extend(images[layer])
    return {layer: run.result() for layer, run in runs.items()}


class _Run:
    """The Krylov basis of one layer and its tridiagonal coefficients."""

    def __init__(self, start: Tensor) -> None:
        self._norm = math.sqrt(inner(start, start))
        self.basis = [start / self._norm]
        self._diagonal: list[float] = []
        self._off: list[float] = []
        self._rules: list[tuple[float, float]] = []  # Gauss value, largest Ritz value
        self._complete = False

    def extend(self, image: Tensor) -> None:
        """Take ``image`` = H times the last basis vector."""
        self._diagonal.append(inner(image, self.basis[-1]))
        span = torch.stack(self.basis)
        for _ in range(2):  # twice is enough (Parlett 1980)
            image = image - span.T @ (span @ image)
        self._rules.append(gauss(np.array(self._diagonal), np.array(self._off)))
        self._off.append(math.sqrt(inner(image, image)))
        self._complete = exhausted(np.array(self._diagonal), np.array(self._off))
        if not self._complete:
            self.basis.append(image / self._off[-1])

    def settled(self, tolerance: float) -> bool:
        if self._complete:
            return True
        if len(self._rules) < 2:
            return False
        (before, largest_before), (value, largest) = self._rules[-2:]
        size = 2 * value - self._diagonal[0]  # vᵀ|H|v of the unit vector
        # The bounds cost more than a glance at what moves; look at them once nothing does.
        if abs(value - before) > tolerance * size:
            return False
        if abs(largest - largest_before) > tolerance * abs(largest):
            return False
        result = self.result()
        return result.error <= tolerance * (result.positive + result.negative)

    def result(self) -> Quadratic:
        square = self._norm**2
        found = positive_part(np.array(self._diagonal), np.array(self._off))
        return Quadratic(
            positive=square * found.estimate,
            negative=square * max(found.estimate - self._diagonal[0], 0.0),
            error=square * max(found.high - found.estimate, found.estimate - found.low),
            largest_eigenvalue=self._rules[-1][1],
            steps=len(self._diagonal),
        )
