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
from dataclasses import dataclass, replace
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
from lensllm.curvature.lanczos import Quadratic, positive_quadratic
from lensllm.curvature.layers import layers_of
from lensllm.curvature.trace import Trace, rademacher, traces
from lensllm.errors import DataError, ModelError
from lensllm.models.batch import Example


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
    hessian_products: int  # products of all layers, counted in examples: see the cost model


def losses(model: Any, examples: Sequence[Example]) -> Tensor:
    """Mean loss of each example in nats per target token, shape (n,), shortest examples first."""
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
    lanczos_steps: int = 8,
    trace_probes: int = 4,
    max_examples_for_h: int = 8,
    seed: int = 0,
    epsilon: float = 0.1,
) -> Curvature:
    """Curvature of the training loss at ``model``'s weights, layer by layer, and the bound.

    Costs (lanczos_steps + trace_probes) Hessian products of ``examples`` and lanczos_steps of
    each of ``max_examples_for_h``; a product costs about NNN forward passes.

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
    layers = layers_of(model)
    moved = _distances(model, pretrained, layers)
    with double_differentiable(model):
        seen = losses(model, examples).double()
        hessian = BlockHessian(model, layers, examples)
        forms = positive_quadratic(hessian, _starts(moved, seed), lanczos_steps)
        found = traces(hessian, moved, trace_probes, seed)
        del hessian  # frees the graph it keeps
        order = seeds.generator(seed, "curvature-examples").permutation(len(examples))
        single = [examples[i] for i in order[:max_examples_for_h]]
        h = _largest_over(model, layers, single, moved, lanczos_steps)
    rows = tuple(_row(n, v, forms[n], h.get(n, 0.0), found[n]) for n, v in moved.items())
    return _bound(rows, seen, subset_size, test_nats_per_token, epsilon)
