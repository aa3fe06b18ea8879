"""Gradients of examples as small factors, and their computation one example at a time.

The gradient of a weight, as a matrix of ``rows`` × ``columns`` (all but the last dimension
flattened; a bias is one row), is a sum over the weight's uses in the forward pass. Where factors
are known, it is formed a few rows at a time only.

Every kind of use, of one weight by B examples, has

- ``tensors``, which it keeps in memory;
- ``block(start, stop)``: these rows of the B gradients, shape (B, (stop − start) · columns);
- ``signed(rows, columns)``: gradients with rows and columns multiplied by these signs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lensllm.core.errors import ModelError
from lensllm.models.batch import Example, collate, head_on


@dataclass(frozen=True)
class Outer:
    """Use in a linear map: Σ_t left_t ⊗ right_t of the input and the gradient at the output."""

    left: Tensor  # (B, T, rows)
    right: Tensor  # (B, T, columns)

    @classmethod
    def row(cls, values: Tensor) -> Outer:
        """A gradient (B, columns) of a single row, as of a bias or a norm's gain."""
        return cls(values.new_ones(len(values), 1, 1), values[:, None])

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.left, self.right

    def block(self, start: int, stop: int) -> Tensor:
        wide = _wide(self.right.dtype)
        left = self.left[..., start:stop].transpose(1, 2).to(wide)
        return torch.bmm(left, self.right.to(wide)).flatten(1)

    def signed(self, rows: Tensor, columns: Tensor) -> Outer:
        return Outer(self.left * rows, self.right * columns)


@dataclass(frozen=True)
class Lookup:
    """Use as an embedding table, whose rows ``ids`` get the gradient at the output."""

    ids: Tensor  # (B, T)
    right: Tensor  # (B, T, columns)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.ids, self.right

    def block(self, start: int, stop: int) -> Tensor:
        count, columns = len(self.ids), self.right.shape[-1]
        inside = (self.ids >= start) & (self.ids < stop)
        owner = inside.nonzero()[:, 0]
        right = self.right[inside].to(_wide(self.right.dtype))
        sums = right.new_zeros(count * (stop - start), columns)
        sums.index_add_(0, owner * (stop - start) + self.ids[inside] - start, right)
        return sums.view(count, -1)

    def signed(self, rows: Tensor, columns: Tensor) -> Lookup:
        return replace(self, right=self.right * rows[self.ids][..., None] * columns)


@dataclass(frozen=True)
class Whole:
    """Gradients formed as a whole."""

    gradients: Tensor  # (B, rows, columns)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.gradients,)

    def block(self, start: int, stop: int) -> Tensor:
        rows = self.gradients[:, start:stop]
        return rows.flatten(1).to(_wide(rows.dtype))

    def signed(self, rows: Tensor, columns: Tensor) -> Whole:
        return Whole(self.gradients * (rows[:, None] * columns))


Use = Outer | Lookup | Whole


def matrix_shape(weight: Tensor) -> tuple[int, int]:
    """Rows and columns of a weight's gradient as a matrix."""
    columns = weight.shape[-1] if weight.dim() else 1
    return weight.numel() // columns, columns


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums: float32 at least."""
    return torch.promote_types(dtype, torch.float32)


def mean_losses(model: Any, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Mean losses ℓ (B,), in nats per target token and differentiable; residual norms ρ (B,)."""
    batch = collate(examples, model.config).to(model.device)
    counts = torch.bincount(batch.owner, minlength=batch.size)
    # Examples with fewer targets are padded by position 0 of the batch, at weight 0.
    here = torch.arange(int(counts.max()), device=counts.device) < counts[:, None]
    places, targets = (torch.zeros_like(here, dtype=torch.long) for _ in range(2))
    places[here], targets[here] = batch.positions, batch.targets
    with head_on(model.get_output_embeddings(), places):
        logits = model(**batch.inputs, use_cache=False).logits
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    weights = here.to(logits.dtype) / counts[:, None]  # (B, targets)
    per_token = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return (per_token.view_as(weights) * weights).sum(1), _residual_norms(
        logits.detach(), targets, weights
    )


def _residual_norms(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """‖softmax − onehot‖ over an example's target tokens, scaled by 1/√|T|, shape (B,)."""
    # 1 − p at the target is summed from the others: near p = 1 a difference has no correct digits.
    others = logits.softmax(-1).scatter_(-1, targets[..., None], 0.0)
    squares = others.square().sum(-1) + others.sum(-1).square()
    return (squares * weights).sum(1).sqrt()


def single_gradients(
    model: Any, weights: Mapping[str, Tensor], examples: Sequence[Example]
) -> tuple[dict[str, list[Use]], Tensor]:
    """Use of every weight by the one example, by name, and its residual norm (1,).

    Raises ``ModelError`` if the model cannot be differentiated, or its loss has no gradient.
    """
    with _differentiable(model, examples):
        loss, norms = mean_losses(model, examples)
        if not loss.requires_grad:
            raise ModelError(
                "the loss of a kernel probe has no gradient: the model's forward pass is closed to "
                "autograd, as that of quantised layers is; load the checkpoint in float32 or "
                "bfloat16"
            )
        found = torch.autograd.grad(loss.sum(), list(weights.values()), materialize_grads=True)
    return {
        name: [Whole(gradient.reshape(1, *matrix_shape(gradient)))]
        for name, gradient in zip(weights, found, strict=True)
    }, norms


@contextmanager
def _differentiable(model: Any, examples: Sequence[Example]) -> Iterator[None]:
    """Turn torch's refusal of a layer into a sentence for the user."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except IndexError as error:  # token ids were checked, so a position is out of range
        longest = max(map(len, examples))
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
