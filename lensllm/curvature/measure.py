"""The terms of the Hessian generalisation bound of one fine-tuned model.

Zeng et al. 2025, Theorem 1, after Ju, Li and Zhang 2022: with probability 0.99

    L(ŵ) ≤ (1 + ε) L̂(ŵ) + (1 + ε)/√n · Σ_layers √(C h_i) + O(n^(−3/4)),

v_i = ŵ_i − w_i the distance moved from the pretrained weights, h_i the largest v_iᵀ H_i⁺ v_i over
single training examples, C a bound on the loss. A diagnostic, never a ranking: cross-entropy has no
bound, so C is the largest loss seen, and h_i is the largest over the examples looked at.

ONE loss stands behind every number here: the mean over examples of an example's mean nats per
target token. It is what the theorem samples; the mean over all tokens weighs long examples more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lensllm import seeds
from lensllm.curvature.hvp import (
    BlockHessian,
    double_differentiable,
    example_losses,
    micro_batches,
)
from lensllm.curvature.lanczos import Quadratic, inner, positive_quadratic
from lensllm.curvature.layers import layers_of
from lensllm.curvature.trace import Trace, rademacher, traces
from lensllm.errors import DataError, ModelError
from lensllm.models.batch import Example
from lensllm.models.cost import forward_flops, shape_of


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
    trace: float
    trace_stderr: float
    largest_eigenvalue: float  # a Ritz value: at most the largest eigenvalue


@dataclass(frozen=True)
class Curvature:
    """Layers and the terms of the bound, all losses in nats per token, means over examples."""

    layers: tuple[LayerCurvature, ...]
    loss_bound: float  # C: the largest loss of an example seen
    epsilon: float
    train_term: float  # (1 + ε) training loss
    curvature_term: float  # (1 + ε)/√n Σ √(C h_i)
    bound: float  # their sum, without the O(n^(−3/4)) remainder
    train_nats_per_token: float
    test_nats_per_token: float
    gap: float  # test − train
    examples: int  # training examples the curvature was averaged over
    flops: float


def losses(model: Any, examples: Sequence[Example]) -> Tensor:
    """Mean loss of each example in nats per target token, shape (n,), shortest examples first.

    The model is run as it is: put it in evaluation mode first.
    """
    with torch.no_grad():
        found = [
            example_losses(model, batch.to(model.device))
            for batch in micro_batches(examples, model.config)
        ]
    return torch.cat(found)


def measure_curvature(
    model: Any,
    pretrained: Mapping[str, Tensor],
    examples: Sequence[Example],
    *,
    subset_size: int,
    test_nats_per_token: float,
    lanczos_steps: int = 6,
    trace_probes: int = 4,
    max_examples_for_h: int = 4,
    seed: int = 0,
    epsilon: float = 0.1,
) -> Curvature:
    """Curvature of the training loss at ``model``'s weights, layer by layer, and the bound.

    Costs at most lanczos_steps + trace_probes Hessian products over ``examples`` and lanczos_steps
    over each of ``max_examples_for_h``; a product of five layers is 13 forward passes. Six steps
    give √(vᵀH⁺v) to 8 % (root mean square, layers of a small fine-tuned GPT-2).

    Args:
        model: the fine-tuned model; attention and mode are put back.
        pretrained: the weights before fine-tuning, by parameter name.
        examples: training examples of the cell.
        subset_size: n of the bound, the number of examples fine-tuned on.
        test_nats_per_token: mean over test examples of their mean loss, as ``losses`` gives.

    Raises:
        DataError: no examples, one without target token, or a subset of size 0.
        ModelError: ``pretrained`` lacks a weight of the model; a loss or product is not finite.
    """
    if not examples or subset_size < 1:
        raise DataError("curvature needs a fine-tuned cell: choose sizes above 0 for it")
    shape, layers = shape_of(model), layers_of(model)
    moved = _distances(model, pretrained, layers)
    with double_differentiable(model):
        seen = losses(model, examples).cpu().double()
        hessian = BlockHessian(model, layers, examples)
        forms = positive_quadratic(hessian, _starts(moved, seed), lanczos_steps)
        found = traces(hessian, moved, trace_probes, seed)
        flops = (1 + hessian.forward_passes) * forward_flops(shape, examples)
        del hessian  # frees the graph it keeps
        order = seeds.generator(seed, "curvature-examples").permutation(len(examples))
        h = dict.fromkeys(layers, 0.0)
        for example in [examples[i] for i in order[:max_examples_for_h]]:
            single = BlockHessian(model, layers, [example])
            for layer, form in positive_quadratic(single, _nonzero(moved), lanczos_steps).items():
                h[layer] = max(h[layer], form.positive)
            flops += single.forward_passes * forward_flops(shape, [example])
    train, largest = float(seen.mean()), float(seen.max())
    terms = bound_terms(train, largest, list(h.values()), subset_size, epsilon)
    return Curvature(
        layers=tuple(_row(n, v, forms[n], h[n], found[n]) for n, v in moved.items()),
        loss_bound=largest,
        epsilon=epsilon,
        train_term=terms.train_term,
        curvature_term=terms.curvature_term,
        bound=terms.bound,
        train_nats_per_token=train,
        test_nats_per_token=test_nats_per_token,
        gap=test_nats_per_token - train,
        examples=len(examples),
        flops=flops,
    )


def _distances(
    model: Any, pretrained: Mapping[str, Tensor], layers: Mapping[str, Sequence[str]]
) -> dict[str, Tensor]:
    """v_i = fine-tuned − pretrained weights of every layer, flat."""
    named = dict(model.named_parameters())
    if missing := [n for names in layers.values() for n in names if n not in pretrained]:
        raise ModelError(
            f"the pretrained weights have no {missing[0]}; give those the cell started from"
        )
    return {
        layer: torch.cat(
            [(named[n].detach() - pretrained[n].to(named[n])).flatten() for n in names]
        )
        for layer, names in layers.items()
    }


def _starts(moved: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Where Lanczos starts: v, and random signs in a layer that did not move."""
    return {
        layer: v if v.any() else rademacher(v, seed, "lanczos", layer) for layer, v in moved.items()
    }


def _nonzero(moved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {layer: v for layer, v in moved.items() if v.any()}


def _row(layer: str, v: Tensor, form: Quadratic, h: float, trace: Trace) -> LayerCurvature:
    distance = math.sqrt(inner(v, v))
    still = distance == 0.0  # the form is then that of a random start
    return LayerCurvature(
        layer=layer,
        parameters=len(v),
        distance=distance,
        vhv_positive=0.0 if still else form.positive,
        vhv_negative=0.0 if still else form.negative,
        vhv_error=0.0 if still else form.error,
        vhv_positive_max=h,
        trace=trace.value,
        trace_stderr=trace.stderr,
        largest_eigenvalue=form.largest_eigenvalue,
    )


@dataclass(frozen=True)
class Bound:
    """The terms of Theorem 1, losses in nats per token."""

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
