"""Exact products with the Hessian of the training loss, and with its diagonal blocks.

Products are reverse-over-reverse (Pearlmutter 1994): one gradient graph for all layers, then one
backward pass of ⟨g_i, u_i⟩ per layer, or a single one of Σ_i ⟨g_i, u_i⟩. The loss is a sum over
examples, so micro-batches of any size give the same product.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lensllm.core import seeds
from lensllm.core.errors import ModelError
from lensllm.hessian.differentiable import (
    graph_footprint,
    micro_batches,
    padded_tokens,
    training_footprint,
)
from lensllm.hessian.lanczos import inner
from lensllm.models.batch import Batch, Example, collate, example_means, token_losses
from lensllm.models.load import weight_not_finite

# Padded tokens of a micro-batch; larger ones were no faster at 1M weights.
_MOST_TOKENS = 512

# Costs in forward passes, counted with torch.utils.flop_counter on seven families: of the graph, of
# a product with the whole Hessian, and with the blocks of n layers, within 20 %, 5.5 + 1.3 n. Less
# where weights are frozen: down to a third with adapters.
_GRAPH_COST, _WHOLE_COST = 3.0, 6.0
_OWN_COST, _COST_PER_LAYER = 5.5, 1.3

Vectors = Mapping[str, Tensor]  # by layer, each flat
# By layer, with the graph to differentiate them again; None of a weight that was not used.
Gradients = dict[str, list[Tensor | None]]


def example_losses(model: Any, batch: Batch) -> Tensor:
    """Mean loss of each example in nats per target token, shape (batch.size,)."""
    return example_means(token_losses(model, batch), batch)


class BlockHessian:
    """Products with the Hessian H of the mean loss over ``examples`` and with its blocks H_i.

    Use within ``double_differentiable(model)``, without changing the weights, and check
    ``require_symmetry`` once. Graphs hold at most ``memory_bytes``, or one example: all of them are
    kept between products if they fit, otherwise every product builds them anew, one at a time. A
    product needs about as much memory again.

    Args:
        layers: names of the weights of each layer, as ``layers_of`` gives them.
        memory_bytes: by default, the activations of a training step on ``batch_size`` of the
            longest examples.

    Raises ModelError if the loss has no gradient.
    """

    def __init__(
        self,
        model: Any,
        layers: Mapping[str, Sequence[str]],
        examples: Sequence[Example],
        *,
        memory_bytes: float | None = None,
        batch_size: int = 16,
    ) -> None:
        named = dict(model.named_parameters())
        self.parameters = {layer: [named[n] for n in names] for layer, names in layers.items()}
        self.forward_passes = 0.0  # cost so far, in forward passes over the examples
        self._model = model
        self._examples, self._tokens = len(examples), sum(map(len, examples))
        self._groups, keep = self._plan(examples, memory_bytes, batch_size)
        self._padding = sum(map(self._share, self._groups))
        self._kept = [self._gradients(group, layers) for group in self._groups] if keep else []

    def __call__(self, vectors: Vectors) -> dict[str, Tensor]:
        """H_i u_i for each layer in ``vectors``, flat like u_i.

        Raises ModelError if the model cannot be differentiated twice, or a product is not finite.
        """
        of_all = _OWN_COST + _COST_PER_LAYER * len(self.parameters)
        self.forward_passes += self._padding * of_all * len(vectors) / len(self.parameters)
        totals = {layer: torch.zeros_like(vector) for layer, vector in vectors.items()}
        last = next(reversed(list(vectors)), None)
        for graph in self._graphs(vectors):
            for layer, vector in vectors.items():
                retain = bool(self._kept) or layer != last
                self._add({layer: totals[layer]}, graph, {layer: vector}, retain=retain)
        return self._mean(totals)

    def whole(self, vectors: Vectors) -> dict[str, Tensor]:
        """(H u)_i for every layer i, in one backward pass; u_i = 0 for layers without a vector."""
        self.forward_passes += self._padding * _WHOLE_COST
        like = next(iter(vectors.values()))
        totals = {
            layer: like.new_zeros(sum(weight.numel() for weight in weights))
            for layer, weights in self.parameters.items()
        }
        for graph in self._graphs(vectors):
            self._add(totals, graph, vectors, retain=bool(self._kept))
        return self._mean(totals)

    def _plan(
        self, examples: Sequence[Example], memory_bytes: float | None, batch_size: int
    ) -> tuple[list[list[Example]], bool]:
        """The examples of each micro-batch, and whether all graphs are kept."""
        if len(examples) == 1:
            return [list(examples)], True
        longest, config = max(examples, key=len), self._model.config
        if memory_bytes is None:
            self.forward_passes += self._share([longest])
            step = training_footprint(self._model, longest)
            memory_bytes = batch_size * step.bytes_of([longest], config)
        graph = graph_footprint(
            self._model, longest, lambda: self._gradients([longest], self.parameters)
        )
        gradients = sum(w.nbytes for weights in self.parameters.values() for w in weights)

        def held(group: Sequence[Example]) -> float:
            return graph.bytes_of(group, config) + float(gradients)

        def fits(group: Sequence[Example]) -> bool:
            return padded_tokens(group, config) <= _MOST_TOKENS and held(group) <= memory_bytes

        groups = micro_batches(examples, fits)
        return groups, len(groups) == 1 or sum(map(held, groups)) <= memory_bytes

    def _share(self, group: Sequence[Example]) -> float:
        """Cost of a pass over one padded batch, relative to one over all examples unpadded."""
        return padded_tokens(group, self._model.config) / self._tokens

    def _graphs(self, layers: Iterable[str]) -> Iterable[Gradients]:
        """Gradient graphs of all micro-batches: the kept ones, or new ones one at a time."""
        return self._kept or (self._gradients(group, layers) for group in self._groups)

    def _gradients(self, group: Sequence[Example], layers: Iterable[str]) -> Gradients:
        """Gradients of one batch's SUMMED example losses, differentiable again."""
        self.forward_passes += _GRAPH_COST * self._share(group)
        weights = {layer: self.parameters[layer] for layer in layers}
        batch = collate(group, self._model.config).to(self._model.device)
        with torch.enable_grad():
            loss = example_losses(self._model, batch).sum()
        if not loss.requires_grad:
            raise ModelError(
                "the loss has no gradient: the model's forward pass is closed to autograd, as that "
                "of quantised layers is; load the checkpoint in float32 or bfloat16"
            )
        every = [weight for own in weights.values() for weight in own]
        with _differentiating(self._model):
            found = iter(torch.autograd.grad(loss, every, create_graph=True, allow_unused=True))
        return {layer: [next(found) for _ in own] for layer, own in weights.items()}

    def _add(self, totals: Vectors, graph: Gradients, vectors: Vectors, *, retain: bool) -> None:
        """Add ∂ Σ_j ⟨g_j, u_j⟩ / ∂w_i to totals_i, over all layers j of ``vectors``."""
        pairs = [
            (gradient, piece)
            for layer, vector in vectors.items()
            for gradient, piece in zip(graph[layer], self._shaped(layer, vector), strict=True)
            if gradient is not None and gradient.requires_grad  # else it is linear: no curvature
        ]
        if not pairs:
            return
        outputs, seeds = zip(*pairs, strict=True)
        weights = [weight for layer in totals for weight in self.parameters[layer]]
        with _differentiating(self._model):
            found = torch.autograd.grad(
                outputs, weights, seeds, retain_graph=retain, allow_unused=True
            )
        pieces = [p for layer, total in totals.items() for p in self._shaped(layer, total)]
        for piece, product in zip(pieces, found, strict=True):
            if product is not None:
                piece += product

    def _shaped(self, layer: str, flat: Tensor) -> list[Tensor]:
        """Views of ``flat`` like the layer's weights."""
        weights = self.parameters[layer]
        pieces = torch.split(flat, [weight.numel() for weight in weights])
        return [piece.view_as(weight) for piece, weight in zip(pieces, weights, strict=True)]

    def _mean(self, totals: dict[str, Tensor]) -> dict[str, Tensor]:
        for layer, total in totals.items():
            if not total.isfinite().all():
                if name := weight_not_finite(self._model):
                    raise ModelError(
                        f"weight {name} is not finite; the checkpoint is damaged: train or "
                        "download it again"
                    )
                raise ModelError(
                    f"the curvature of layer {layer} is not finite though its weights are; "
                    "check that the vectors are, and that the checkpoint's losses are sensible"
                )
            total /= self._examples
        return totals


@contextmanager
def _differentiating(model: Any) -> Iterator[None]:
    """Turn torch's refusals into a sentence for the user."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).strip().split("\n", 1)[0].rstrip(".")
        raise ModelError(
            f"{type(model).__name__} cannot be differentiated twice: {reason}; "
            "load it without compiled or fused layers"
        ) from error


# Float32 leaves less than 3e-6, on 35 families of architectures and on trained models alike.
_ROUNDING = 1e-3


def require_symmetry(hessian: BlockHessian, seed: int = 0) -> None:
    """Raise ModelError if ⟨u, Hz⟩ and ⟨z, Hu⟩ differ, for random u and z: two whole products.

    A fused kernel's gradient is a constant to autograd, and products are wrong without an error. A
    single example detects it. Errors in an elementwise derivative are symmetric, so not detected.
    """
    u, z = (_normal_vectors(hessian, seed, number) for number in range(2))
    image_u, image_z = hessian.whole(u), hessian.whole(z)
    # ⟨u, x⟩ is about ‖x‖ for a normal u
    size = max(_total_inner(image, image) for image in (image_u, image_z)) ** 0.5
    difference = abs(_total_inner(u, image_z) - _total_inner(z, image_u))
    if difference > _ROUNDING * size:
        raise ModelError(
            f"the model's second derivative is not symmetric, by {difference / size:.1%}: one of "
            "its layers computes its gradient outside autograd, as fused kernels do; "
            "uninstall the package that they come from (such as mamba_ssm)"
        )


def _normal_vectors(hessian: BlockHessian, seed: int, number: int) -> dict[str, Tensor]:
    return {
        layer: torch.from_numpy(
            seeds.generator(seed, "symmetry", layer, number).standard_normal(
                sum(weight.numel() for weight in weights), dtype=np.float32
            )
        ).to(weights[0])
        for layer, weights in hessian.parameters.items()
    }


def _total_inner(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return sum(inner(a[layer], b[layer]) for layer in a)
