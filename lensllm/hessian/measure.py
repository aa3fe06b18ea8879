"""What the curvature of the training loss at a fine-tuned model's weights is, layer by layer.

ONE loss stands behind every number: the mean over examples of an example's mean nats per target
token. It is what the theorem behind the bound samples; a mean over all tokens weighs long examples
more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lensllm.core.errors import DataError
from lensllm.hessian.differentiable import double_differentiable
from lensllm.hessian.hvp import BlockHessian
from lensllm.hessian.lanczos import Quadratic, inner, positive_quadratic, spectrum
from lensllm.hessian.layers import layers_of
from lensllm.hessian.quadrature import Rule
from lensllm.hessian.symmetry import require_symmetry
from lensllm.hessian.trace import Trace, rademacher, traces
from lensllm.models.batch import Example
from lensllm.models.cost import forward_flops, shape_of

# Nodes of the spectral density, each a product with the whole Hessian: enough to see the bulk, the
# negative end and the few largest eigenvalues.
DENSITY_STEPS = 10


@dataclass(frozen=True)
class LayerCurvature:
    """One layer: a row of the table curvature/layers."""

    layer: str
    parameters: int
    distance: float  # ‖v‖
    vhv_positive: float  # vᵀH⁺v of the mean training loss
    vhv_negative: float  # vᵀH⁻v, non-negative
    vhv_error: float  # neither is further than this from its value
    vhv_positive_max: float  # largest vᵀH⁺v over single examples: h_i
    vhv_max_error: float  # that example's is no further than this from it
    trace: float
    trace_stderr: float
    largest_eigenvalue: float  # a Ritz value: at most the largest eigenvalue
    eigenvalue_error: float  # some eigenvalue is no further than this from it
    lanczos_steps: int  # behind the mean loss's numbers


@dataclass(frozen=True)
class Curvature:
    """All layers, and the eigenvalues of the whole Hessian where they were asked for."""

    layers: tuple[LayerCurvature, ...]
    density: Rule | None
    flops: float


def measure_curvature(
    model: Any,
    moved: Mapping[str, Tensor],
    examples: Sequence[Example],
    *,
    mean_examples: int = 4,
    batch_size: int = 16,
    tolerance: float = 0.1,
    lanczos_steps: int = 6,
    trace_probes: int = 4,
    density: bool = False,
    seed: int = 0,
) -> Curvature:
    """Curvature of the loss on ``examples`` at ``model``'s weights.

    Every example's own H v is computed first. The mean over the first ``mean_examples`` is the
    first Lanczos step of their mean loss. Which example has the largest vᵀH⁺v is judged, layer by
    layer, by its upper bound after one step, (vᵀHv + ‖Hv‖‖v‖)/2 (Scarf 1958), and Lanczos runs for
    that one alone. On real cells it had at least .9 of the largest of 24 in 18 of 21 layers, where
    4 examples at random have .8 of it on average.

    Args:
        model: the fine-tuned model; attention, precision and mode are put back.
        moved: v, fine-tuned − pretrained weights of every layer of ``layers_of``, flat.
        batch_size: of fine-tuning; no more memory than one of its steps' activations is taken.
        tolerance: of vᵀ|H|v, at which Lanczos ends before ``lanczos_steps``.
        density: whether the spectral density is measured too.

    Raises:
        DataError: no examples, or one without target token.
        ModelError: the model cannot be differentiated twice, or a loss or product is not finite.
    """
    if not examples:
        raise DataError("curvature needs a fine-tuned cell: choose sizes above 0 for it")
    with double_differentiable(model):
        work = _Work(model, layers_of(model), batch_size, lanczos_steps, tolerance)
        with work.hessian([min(examples, key=len)]) as hessian:
            require_symmetry(hessian, seed)
        averaged = examples[:mean_examples]
        mean, chosen = _singles(work, examples, len(averaged), moved)
        largest = _largest(work, examples, chosen, moved)
        with work.hessian(averaged) as hessian:
            forms = positive_quadratic(
                hessian, _starts(moved, seed), lanczos_steps, tolerance=tolerance, images=mean
            )
            found = traces(hessian, moved, trace_probes, seed)
            rule = _density(hessian, moved, seed) if density else None
    rows = (_row(n, v, forms[n], largest.get(n), found[n]) for n, v in moved.items())
    return Curvature(tuple(rows), rule, work.flops)


@dataclass
class _Work:
    """What every Hessian of one measurement shares, and what they have cost."""

    model: Any
    layers: Mapping[str, Sequence[str]]
    batch_size: int
    steps: int
    tolerance: float
    flops: float = 0.0

    @contextmanager
    def hessian(self, examples: Sequence[Example]) -> Iterator[BlockHessian]:
        hessian = BlockHessian(self.model, self.layers, examples, batch_size=self.batch_size)
        yield hessian
        self.flops += hessian.forward_passes * forward_flops(shape_of(self.model), examples)


def _singles(
    work: _Work, examples: Sequence[Example], averaged: int, moved: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """By layer that moved: H v of the mean loss over the first ``averaged`` examples, and which
    example has the largest bound."""
    vectors = {layer: v for layer, v in moved.items() if v.any()}
    total = {layer: torch.zeros_like(v) for layer, v in vectors.items()}
    bounds: dict[str, list[float]] = {layer: [] for layer in vectors}
    for place, example in enumerate(examples):
        with work.hessian([example]) as hessian:
            images = hessian(vectors)
        for layer, image in images.items():
            if place < averaged:
                total[layer] += image / averaged
            v = vectors[layer]
            product = math.sqrt(inner(v, v) * inner(image, image))
            bounds[layer].append((inner(v, image) + product) / 2)
    return total, {layer: int(np.argmax(bounds[layer])) for layer in vectors}


def _largest(
    work: _Work, examples: Sequence[Example], chosen: Mapping[str, int], moved: Mapping[str, Tensor]
) -> dict[str, Quadratic]:
    """vᵀH⁺v of every layer for the example chosen for it."""
    found: dict[str, Quadratic] = {}
    for place in sorted(set(chosen.values())):
        vectors = {layer: moved[layer] for layer, at in chosen.items() if at == place}
        with work.hessian([examples[place]]) as hessian:
            found |= positive_quadratic(hessian, vectors, work.steps, tolerance=work.tolerance)
    return found


def _starts(moved: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Where Lanczos starts: v, and random signs in a layer that did not move."""
    return {
        layer: v if v.any() else rademacher(v, seed, "lanczos", layer) for layer, v in moved.items()
    }


def _density(hessian: BlockHessian, moved: Mapping[str, Tensor], seed: int) -> Rule:
    """Of the whole Hessian, from one vector of random signs: with so many weights one is enough."""
    sizes = [len(v) for v in moved.values()]

    def product(flat: Tensor) -> Tensor:
        pieces = dict(zip(moved, torch.split(flat, sizes), strict=True))
        images = hessian.whole(pieces)
        return torch.cat([images[layer] for layer in moved])

    signs = [rademacher(v, seed, "density", layer) for layer, v in moved.items()]
    return spectrum(product, torch.cat(signs), DENSITY_STEPS)


def _row(
    layer: str, v: Tensor, form: Quadratic, largest: Quadratic | None, trace: Trace
) -> LayerCurvature:
    still = largest is None  # the form is then that of a random start
    return LayerCurvature(
        layer=layer,
        parameters=len(v),
        distance=math.sqrt(inner(v, v)),
        vhv_positive=0.0 if still else form.positive,
        vhv_negative=0.0 if still else form.negative,
        vhv_error=0.0 if still else form.error,
        vhv_positive_max=largest.positive if largest else 0.0,
        vhv_max_error=largest.error if largest else 0.0,
        trace=trace.value,
        trace_stderr=trace.stderr,
        largest_eigenvalue=form.largest_eigenvalue,
        eigenvalue_error=form.eigenvalue_error,
        lanczos_steps=form.steps,
    )
