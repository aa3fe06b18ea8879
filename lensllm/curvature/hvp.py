"""Exact products with the diagonal blocks of the training loss's Hessian.

The loss is the mean over examples of an example's mean loss in nats per token: a sum over examples,
so that micro-batches of any size give the same product. Products are plain reverse-over-reverse
(Pearlmutter 1994): one gradient graph for all layers, then one backward pass of ⟨g_i, u_i⟩ per
layer, which touches only what lies between layer i and the loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lensllm.errors import DataError, ModelError
from lensllm.models.batch import Batch, Example, collate, token_losses

# Padded tokens of a micro-batch: larger ones were no faster at 1M weights.
_TOKENS_PER_BATCH = 512

# Graphs are kept between products while weights × padded tokens stay below this: they take 0.02
# (135M weights) to 0.08 bytes (1M weights) of it, so 350 MB at most.
_KEPT = 2**32

# Costs in forward passes, counted with torch.utils.flop_counter on GPT-2, Qwen3 and T5 of 4 to 14
# layers: the graph 3.3 … 3.9; a product of all layers 12 … 24, within 15 % of 6 + 1.5 per layer.
_GRAPH_COST = 3.5
_OWN_COST, _COST_PER_LAYER = 6.0, 1.5

Gradients = dict[str, list[Tensor]]  # by layer, with the graph to differentiate them again


@contextmanager
def double_differentiable(model: Any) -> Iterator[None]:
    """Evaluation mode and eager attention, both put back at the end.

    The fused attention kernels have no second derivative.
    """
    was_training, attention = model.training, model.config._attn_implementation
    model.eval()
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(attention)
        model.train(was_training)


def example_losses(model: Any, batch: Batch) -> Tensor:
    """Mean loss of each example in nats per target token, shape (batch.size,)."""
    losses = token_losses(model, batch)
    totals = losses.new_zeros(batch.size).index_add(0, batch.owner, losses)
    return totals / torch.bincount(batch.owner, minlength=batch.size)


def micro_batches(
    examples: Sequence[Example], config: Any, tokens: int = _TOKENS_PER_BATCH
) -> list[Batch]:
    """All examples, like lengths together, at most ``tokens`` padded tokens to a batch.

    Raises ``DataError`` for an example without target token: its mean loss is undefined.
    """
    if not all(example.completion for example in examples):
        raise DataError("an example has no target token; drop it before measuring curvature")
    groups: list[list[Example]] = []
    for example in sorted(examples, key=len):
        if groups and len(example) * (len(groups[-1]) + 1) <= tokens:
            groups[-1].append(example)
        else:
            groups.append([example])
    return [collate(group, config) for group in groups]


class BlockHessian:
    """u ↦ H_i u for the Hessian block H_i of every layer i, of the mean loss over ``examples``.

    Use within ``double_differentiable(model)``, with the model's weights left alone. Graphs are
    kept between products when they are small; otherwise every product builds them anew, one
    micro-batch at a time.
    """

    def __init__(
        self,
        model: Any,
        layers: Mapping[str, Sequence[str]],
        examples: Sequence[Example],
        *,
        tokens_per_batch: int = _TOKENS_PER_BATCH,
    ) -> None:
        named = dict(model.named_parameters())
        self.parameters = {layer: [named[n] for n in names] for layer, names in layers.items()}
        self._model = model
        self._examples = len(examples)
        self.forward_passes = 0.0  # over the examples: what has been computed so far cost as much
        self._batches = micro_batches(examples, model.config, tokens_per_batch)
        weights = sum(p.numel() for group in self.parameters.values() for p in group)
        tokens = sum(batch.inputs["input_ids"].numel() for batch in self._batches)
        small = weights * tokens <= _KEPT
        self._kept = [self._gradients(batch) for batch in self._batches] if small else None

    def __call__(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """H_i u_i for each layer in ``vectors``; flat tensors of the layer's size both ways.

        Raises ``ModelError`` when a product is not finite.
        """
        share = len(vectors) / len(self.parameters)
        self.forward_passes += share * (_OWN_COST + _COST_PER_LAYER * len(self.parameters))
        totals = {layer: torch.zeros_like(vector) for layer, vector in vectors.items()}
        for gradients in self._kept or map(self._gradients, self._batches):
            for layer, vector in vectors.items():
                totals[layer] += self._product(gradients[layer], self.parameters[layer], vector)
        for layer, total in totals.items():
            if not total.isfinite().all():
                raise ModelError(f"the curvature of {layer} is not finite; the weights are damaged")
            total /= self._examples
        return totals

    def _gradients(self, batch: Batch) -> Gradients:
        """Gradients of the batch's SUMMED example losses, by layer, differentiable again."""
        self.forward_passes += _GRAPH_COST * batch.size / self._examples
        loss = example_losses(self._model, batch.to(self._model.device)).sum()
        everything = [p for group in self.parameters.values() for p in group]
        found = iter(
            torch.autograd.grad(loss, everything, create_graph=True, materialize_grads=True)
        )
        return {layer: [next(found) for _ in group] for layer, group in self.parameters.items()}

    @staticmethod
    def _product(gradients: list[Tensor], parameters: list[Tensor], vector: Tensor) -> Tensor:
        """∂⟨g, u⟩/∂w of one layer, flat."""
        pieces = torch.split(vector, [p.numel() for p in parameters])
        pairs = [
            (g, u.view_as(g))
            for g, u in zip(gradients, pieces, strict=True)
            if g.requires_grad  # else the parameter is unused or enters linearly: no curvature
        ]
        if not pairs:
            return torch.zeros_like(vector)
        outputs, seeds = zip(*pairs, strict=True)
        products = torch.autograd.grad(
            outputs, parameters, seeds, retain_graph=True, materialize_grads=True
        )
        return torch.cat([product.flatten() for product in products])
