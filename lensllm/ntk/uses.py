"""What a pass leaves behind of each weight: the factors of every probe's gradient.

The gradient of a weight, seen as a matrix of ``rows`` × ``columns`` (all but the last dimension
flattened; a bias is one row), is a sum over its uses in the forward pass. Inner products and
sketches need it a few rows at a time only, so it is never formed as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor


class Use(Protocol):
    """One use of a weight by B probes."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What it keeps in memory."""

    def block(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` … ``stop`` of the B gradients, shape (B, (stop − start) · columns)."""

    def signed(self, rows: Tensor, columns: Tensor) -> Use:
        """The gradients with their rows and columns multiplied by ±1."""


@dataclass(frozen=True)
class Outer:
    """A linear map: Σ_t left_t ⊗ right_t, of an input and the gradient at the output."""

    left: Tensor  # (B, T, rows)
    right: Tensor  # (B, T, columns)

    @classmethod
    def row(cls, values: Tensor) -> Outer:
        """A gradient (B, columns) that is one row already: of a bias or a norm's gain."""
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
    """An embedding: row ``ids`` of the table has the gradient at the output."""

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

    def renumbered(self, known: Tensor) -> Lookup:
        """In a table of the rows ``known``, ascending."""
        return replace(self, ids=torch.searchsorted(known, self.ids.contiguous()))

    def signed(self, rows: Tensor, columns: Tensor) -> Lookup:
        return replace(self, right=self.right * rows[self.ids][..., None] * columns)


@dataclass(frozen=True)
class Whole:
    """Gradients as they are."""

    gradients: Tensor  # (B, rows, columns)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.gradients,)

    def block(self, start: int, stop: int) -> Tensor:
        rows = self.gradients[:, start:stop]
        return rows.flatten(1).to(_wide(rows.dtype))

    def signed(self, rows: Tensor, columns: Tensor) -> Whole:
        return Whole(self.gradients * (rows[:, None] * columns))


def matrix_shape(weight: Tensor) -> tuple[int, int]:
    """Rows and columns of a weight's gradient."""
    columns = weight.shape[-1] if weight.dim() else 1
    return weight.numel() // columns, columns


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Sums are never narrower than float32."""
    return torch.promote_types(dtype, torch.float32)
