"""Gradients probe by probe: right for whatever autograd can differentiate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lensllm.errors import ModelError
from lensllm.kernel.forward import losses
from lensllm.kernel.uses import Use, Whole, matrix_shape
from lensllm.models.batch import Example


def gradients(
    model: Any, weights: Mapping[str, Tensor], probes: Sequence[Example]
) -> tuple[dict[str, list[Use]], Tensor]:
    """The use of every weight by one probe, and its residual norm (1,). Raises ModelError."""
    if len(probes) != 1:
        raise ValueError("one probe at a time")
    loss, norms = losses(model, probes)
    if not loss.requires_grad:
        raise ModelError(
            "the loss of a kernel probe has no gradient: the model's forward pass is closed to "
            "autograd, as that of quantised layers is; load the checkpoint in float32 or bfloat16"
        )
    found = torch.autograd.grad(loss.sum(), list(weights.values()), materialize_grads=True)
    return {
        name: [Whole(gradient.view(1, *matrix_shape(gradient)))]
        for name, gradient in zip(weights, (g.contiguous() for g in found), strict=True)
    }, norms
