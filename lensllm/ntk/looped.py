"""Gradients probe by probe: right for whatever autograd can differentiate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lensllm.core.errors import ModelError
from lensllm.models.batch import Example
from lensllm.ntk.forward import losses
from lensllm.ntk.uses import Use, Whole, matrix_shape


def gradients(
    model: Any, weights: Mapping[str, Tensor], probes: Sequence[Example]
) -> tuple[dict[str, list[Use]], Tensor]:
    """The use of every weight by one probe, and its residual norm (1,). Raises ModelError."""
    if len(probes) != 1:
        raise ValueError("one probe at a time")
    with _differentiable(model, probes):
        loss, norms = losses(model, probes)
    if not loss.requires_grad:
        raise ModelError(
            "the loss of a kernel probe has no gradient: the model's forward pass is closed to "
            "autograd, as that of quantised layers is; load the checkpoint in float32 or bfloat16"
        )
    with _differentiable(model, probes):
        found = torch.autograd.grad(loss.sum(), list(weights.values()), materialize_grads=True)
    return {
        name: [Whole(gradient.view(1, *matrix_shape(gradient)))]
        for name, gradient in zip(weights, (g.contiguous() for g in found), strict=True)
    }, norms


@contextmanager
def _differentiable(model: Any, probes: Sequence[Example]) -> Iterator[None]:
    """What torch says of a layer that autograd cannot go through, as a sentence."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except IndexError as error:  # tokens are those of the model, so positions are not
        longest = max(map(len, probes))
        raise ModelError(
            f"a kernel probe of {longest} tokens is longer than the positions of "
            f"{type(model).__name__}; lower data.max_tokens"
        ) from error
    except RuntimeError as error:
        first = str(error).strip().split("\n", 1)[0]
        raise ModelError(
            f"{type(model).__name__} cannot be differentiated on a kernel probe ({first}); if its "
            "attention has no backward pass, load the checkpoint with attn_implementation='eager'"
        ) from error
