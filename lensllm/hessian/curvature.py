"""Curvature of the training loss at a fine-tuned model's weights, layer by layer.

The loss is the mean over examples of an example's mean nats per target token, since the bound's
theorem samples examples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lensllm.core import seeds
from lensllm.core.errors import DataError, ModelError
from lensllm.hessian.differentiable import double_differentiable
from lensllm.hessian.hvp import BlockHessian, require_symmetry
from lensllm.hessian.lanczos import (
    GaussRule,
    Product,
    Quadratic,
    inner,
    positive_quadratic,
    spectral_density,
)
from lensllm.models.batch import Example
from lensllm.models.cost import forward_flops, shape_of

# Nodes of the spectral density, enough for the bulk, the negative end and the largest eigenvalues.
DENSITY_STEPS = 10


@dataclass(frozen=True)
class LayerCurvature:
    """Curvature of one layer: a row of the table curvature/layers."""

    layer: str
    parameters: int
    distance: float  # ‖v‖
    vhv_positive: float  # vᵀH⁺v of the mean training loss
    vhv_negative: float  # vᵀH⁻v, non-negative
    vhv_error: float  # bound on the error of either
    vhv_positive_max: float  # largest vᵀH⁺v over single examples: h_i
    vhv_max_error: float  # bound on the error of that example's value
    trace: float
    trace_stderr: float
    largest_eigenvalue: float  # a Ritz value: at most the largest eigenvalue
    eigenvalue_error: float  # distance from it within which there is an eigenvalue
    lanczos_steps: int  # Hessian products behind the mean loss's numbers


@dataclass(frozen=True)
class Curvature:
    """Curvature of all layers, and the spectral density of the whole Hessian if requested."""

    layers: tuple[LayerCurvature, ...]
    density: GaussRule | None
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
    trace_vectors: int = 4,
    density: bool = False,
    seed: int = 0,
) -> Curvature:
    """Measure the curvature of the loss on ``examples`` at the weights of ``model``.

    Every example's own H v is computed first. The mean over the first ``mean_examples`` is the
    first Lanczos step of their mean loss. The example with the largest vᵀH⁺v is chosen, layer by
    layer, by the upper bound after one step, (vᵀHv + ‖Hv‖‖v‖)/2 (Scarf 1958), and Lanczos runs for
    that example alone: on real cells at least 0.9 of the largest of 24 in 18 of 21 layers.

    Args:
        model: the fine-tuned model; attention, precision and mode are restored.
        moved: v, fine-tuned − pretrained weights of every layer of ``layers_of``, each flat.
        examples: training examples; the largest vᵀH⁺v is sought among all of them.
        mean_examples: number of examples behind the mean loss, the first ones.
        batch_size: batch size of fine-tuning, whose activations limit the memory used here.
        tolerance: error, as a share of vᵀ|H|v, at which Lanczos ends before ``lanczos_steps``.
        trace_vectors: random vectors behind each trace.
        density: measure the spectral density of the whole Hessian, too.

    Raises:
        DataError: there are no examples.
        ModelError: the model cannot be differentiated twice, or a loss or product is not finite.
    """
    if not examples:
        raise DataError("curvature needs a fine-tuned cell: choose sizes above 0 for it")
    with double_differentiable(model):
        measurement = _Measurement(model, moved, batch_size, lanczos_steps, tolerance)
        with measurement.hessian([min(examples, key=len)]) as hessian:
            require_symmetry(hessian, seed)
        averaged = examples[:mean_examples]
        mean, chosen = measurement.single_examples(examples, len(averaged))
        largest = measurement.largest(examples, chosen)
        start = {n: v if v.any() else rademacher(v, seed, "lanczos", n) for n, v in moved.items()}
        with measurement.hessian(averaged) as hessian:
            forms = positive_quadratic(
                hessian, start, lanczos_steps, tolerance=tolerance, images=mean
            )
            found = traces(hessian, moved, trace_vectors, seed)
            rule = _density(hessian, moved, seed) if density else None
    rows = (_row(n, v, forms[n], largest.get(n), found[n]) for n, v in moved.items())
    return Curvature(tuple(rows), rule, measurement.flops)


@dataclass
class _Measurement:
    """Settings shared by every Hessian of one measurement, and the FLOPs spent so far."""

    model: Any
    moved: Mapping[str, Tensor]
    batch_size: int
    steps: int
    tolerance: float
    flops: float = 0.0

    @contextmanager
    def hessian(self, examples: Sequence[Example]) -> Iterator[BlockHessian]:
        layers = layers_of(self.model)
        hessian = BlockHessian(self.model, layers, examples, batch_size=self.batch_size)
        yield hessian
        self.flops += hessian.forward_passes * forward_flops(shape_of(self.model), examples)

    def single_examples(
        self, examples: Sequence[Example], averaged: int
    ) -> tuple[dict[str, Tensor], dict[str, int]]:
        """By layer that moved: H v of the first ``averaged``, and the example to examine."""
        vectors = {layer: v for layer, v in self.moved.items() if v.any()}
        total = {layer: torch.zeros_like(v) for layer, v in vectors.items()}
        bounds: dict[str, list[float]] = {layer: [] for layer in vectors}
        for place, example in enumerate(examples):
            with self.hessian([example]) as hessian:
                images = hessian(vectors)
            for layer, image in images.items():
                if place < averaged:
                    total[layer] += image / averaged
                v = vectors[layer]
                product = math.sqrt(inner(v, v) * inner(image, image))
                bounds[layer].append((inner(v, image) + product) / 2)
        return total, {layer: int(np.argmax(of_examples)) for layer, of_examples in bounds.items()}

    def largest(
        self, examples: Sequence[Example], chosen: Mapping[str, int]
    ) -> dict[str, Quadratic]:
        """vᵀH⁺v of every layer for the example chosen for it."""
        found: dict[str, Quadratic] = {}
        for place in sorted(set(chosen.values())):
            vectors = {layer: self.moved[layer] for layer, i in chosen.items() if i == place}
            with self.hessian([examples[place]]) as hessian:
                found |= positive_quadratic(hessian, vectors, self.steps, tolerance=self.tolerance)
        return found


def _density(hessian: BlockHessian, moved: Mapping[str, Tensor], seed: int) -> GaussRule:
    """Spectral density of the whole Hessian, from one random vector."""
    sizes = [len(v) for v in moved.values()]

    def product(flat: Tensor) -> Tensor:
        pieces = dict(zip(moved, torch.split(flat, sizes), strict=True))
        images = hessian.whole(pieces)
        return torch.cat([images[layer] for layer in moved])

    signs = [rademacher(v, seed, "density", layer) for layer, v in moved.items()]
    return spectral_density(product, torch.cat(signs), DENSITY_STEPS)


def _row(
    layer: str, v: Tensor, form: Quadratic, largest: Quadratic | None, trace: Trace
) -> LayerCurvature:
    still = largest is None  # Lanczos then started at a random vector, so its form is not v's
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


EMBEDDINGS = "embeddings"
HEAD = "head"


def layers_of(model: Any) -> dict[str, list[str]]:
    """Names of the trainable parameters of each layer, in the model's order.

    A layer is a transformer block or another module outside the blocks, named by its path
    (``transformer.h.0``); ``embeddings`` are all embedding tables outside the blocks, with a head
    tied to them, and ``head`` is an untied one. Adapters belong to the layer of what they adapt.
    Raises ModelError if every weight is frozen.
    """
    modules = dict(model.named_modules())
    head = model.get_output_embeddings()
    layers: dict[str, list[str]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            layers.setdefault(_layer(name.rpartition(".")[0], modules, head), []).append(name)
    if not layers:
        raise ModelError(
            "curvature needs a trainable weight and every one of the model is frozen; "
            "unfreeze those that fine-tuning moves"
        )
    return layers


def _layer(path: str, modules: Mapping[str, nn.Module], head: nn.Module) -> str:
    parts = path.split(".")
    for depth, part in enumerate(parts, start=1):
        outer = ".".join(parts[:depth])
        if part.isdigit():  # an entry of a ModuleList: the block
            return outer
        if modules[outer] is head:
            return HEAD
        # peft keeps the module that it adapts as base_layer.
        if isinstance(getattr(modules[outer], "base_layer", modules[outer]), nn.Embedding):
            return EMBEDDINGS
    return path


@dataclass(frozen=True)
class Trace:
    """Unbiased estimate of a trace (Hutchinson 1989) and its standard error."""

    value: float
    stderr: float  # NaN for a single vector


def rademacher(like: Tensor, seed: int, purpose: str, *indices: int | str) -> Tensor:
    """Independent signs ±1 of ``like``'s shape, dtype and device."""
    signs = seeds.generator(seed, purpose, *indices).integers(0, 2, len(like), dtype=np.int8)
    return torch.from_numpy(signs).to(like) * 2 - 1


def traces(
    product: Product, shapes: Mapping[str, Tensor], vectors: int, seed: int
) -> dict[str, Trace]:
    """tr H_i of every layer: the mean of zᵀH_i z over ``vectors`` random sign vectors z.

    ``shapes`` holds a flat tensor per layer, whose size, dtype and device z takes.
    """
    forms: dict[str, list[float]] = {layer: [] for layer in shapes}
    for number in range(vectors):
        signs = {n: rademacher(s, seed, "trace", n, number) for n, s in shapes.items()}
        for layer, image in product(signs).items():
            forms[layer].append(inner(signs[layer], image))
    root = math.sqrt(vectors)
    return {
        n: Trace(float(np.mean(v)), float(np.std(v, ddof=1) / root) if vectors > 1 else math.nan)
        for n, v in forms.items()
    }
