"""All inner products of the probes' gradients, exactly, one weight at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor

from lensllm.core.errors import ModelError
from lensllm.ntk.uses import Lookup, Use

# Columns multiplied at once: a third faster than 8,192, and no slower than more. Float32 products
# this long, summed in float64, leave K within 1e-6 of its norm.
COLUMNS = 32_768
# Probes multiplied at once: blocks below the diagonal are mirrored, not computed.
PROBES = 64


class NotFinite(ModelError):
    """A sum over a gradient; ``damage`` finds out where it comes from."""


class Product(Protocol):
    """Takes the gradients as factors, gives their inner products."""

    def add(self, start: int, stop: int, uses: Mapping[str, list[Use]]) -> None:
        """The gradients of probes ``start`` … ``stop``. Raises NotFinite."""

    def gram(self) -> Tensor:
        """(n, n) inner products, float64. Raises NotFinite."""


class Contraction:
    """Keeps the factors of all probes; its memory is that of ``Use.tensors``."""

    def __init__(self, shapes: Mapping[str, tuple[int, int]], probes: int) -> None:
        self._shapes, self._probes = shapes, probes
        self._uses: dict[str, list[_Batch]] = {name: [] for name in shapes}

    def add(self, start: int, stop: int, uses: Mapping[str, list[Use]]) -> None:
        for name, found in uses.items():
            self._uses[name].append((stop - start, found))

    def gram(self) -> Tensor:
        total = torch.zeros(self._probes, self._probes, dtype=torch.float64)
        for name, shape in self._shapes.items():
            batches = self._uses.pop(name)  # its memory is free again after the turn
            for block in _blocks(batches, *shape):
                add_products(total, block)
            if not total.diagonal().sum().isfinite():
                raise not_finite(name)
        return total


_Batch = tuple[int, list[Use]]  # probes, in order, and the uses of one weight by them


def _blocks(batches: list[_Batch], rows: int, columns: int) -> Iterator[Tensor]:
    """Gradients of one weight, (n, about ``COLUMNS``) at a time; the uses of a batch add up."""
    uses = [use for _, found in batches for use in found]
    if not uses:
        return
    if all(isinstance(use, Lookup) for use in uses):
        batches, rows = _only_used(batches)
    step = max(1, COLUMNS // columns)
    for top in range(0, rows, step):
        bottom = min(top + step, rows)
        parts = [
            sum((use.block(top, bottom) for use in found[1:]), found[0].block(top, bottom))
            if found
            else None
            for _, found in batches
        ]
        like = next(part for part in parts if part is not None)
        yield torch.cat([
            like.new_zeros(size, like.shape[1]) if part is None else part
            for (size, _), part in zip(batches, parts, strict=True)
        ])  # fmt: skip


def _only_used(batches: list[_Batch]) -> tuple[list[_Batch], int]:
    """Lookups in a table of the rows that any of them looks up: of a vocabulary they are few."""
    ids = [use.ids for _, found in batches for use in found if isinstance(use, Lookup)]
    known = torch.unique(torch.cat([i.flatten() for i in ids]))
    return [
        (size, [use.renumbered(known) for use in found if isinstance(use, Lookup)])
        for size, found in batches
    ], len(known)


def add_products(total: Tensor, block: Tensor) -> None:
    """Add block · blockᵀ, of a (n, any) ``block``, to ``total`` (n, n)."""
    parts = torch.split(block, PROBES)
    for i, left in enumerate(parts):
        for j, right in enumerate(parts[: i + 1]):
            product = (left @ right.T).to(total)
            rows = slice(i * PROBES, i * PROBES + len(left))
            columns = slice(j * PROBES, j * PROBES + len(right))
            total[rows, columns] += product
            if i != j:
                total[columns, rows] += product.T


def not_finite(name: str) -> NotFinite:
    """The error for a gradient with NaN or infinity, or whose sum or square is infinite."""
    return NotFinite(
        f"the gradient of {name} is not finite on a kernel probe, or too large to be squared; "
        "leave this candidate out"
    )
