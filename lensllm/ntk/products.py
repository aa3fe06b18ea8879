"""Inner products of the examples' gradients: exactly, or from a CountSketch.

``Contraction`` multiplies exactly, one weight at a time, and keeps all factors until then.
``Sketch`` needs constant memory: entry p of the flattened gradient goes to bucket p mod m with a
random sign (Charikar, Chen, Farach-Colton 2002), that of its row times that of its column, so that
the factors are signed, not the gradient. Its inner products are unbiased; with K's participation
ratio r = (Σλ)² / Σλ² their relative Frobenius error is about √((r + 1) / m).

Both have ``add(start, stop, uses)``, for the gradients of examples ``start`` … ``stop``, and
``gram()``, the inner products (n, n) in float64; either raises ``NotFinite``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lensllm.core import seeds
from lensllm.core.errors import ModelError
from lensllm.ntk.factors import Lookup, Use

# Columns multiplied at once: a third faster than 8,192; float32 products this long, summed in
# float64, leave K within 1e-6 of its norm.
_COLUMNS = 32_768
BLOCK = 64  # examples multiplied at once; blocks above the diagonal are mirrored


Shapes = Mapping[str, tuple[int, int]]  # rows and columns by weight
_Batch = tuple[int, list[Use]]  # number of examples, and the uses of one weight by them


class NotFinite(ModelError):
    """A gradient has a NaN or infinity; ``lensllm.ntk.kernel`` looks for the layer it is from."""


class Contraction:
    """Exact inner products; keeps the factors of all examples until ``gram``."""

    def __init__(self, shapes: Shapes, examples: int) -> None:
        self._shapes, self._count = shapes, examples
        self._uses: dict[str, list[_Batch]] = {name: [] for name in shapes}

    def add(self, start: int, stop: int, uses: Mapping[str, list[Use]]) -> None:
        for name, found in uses.items():
            self._uses[name].append((stop - start, found))

    def gram(self) -> Tensor:
        total = torch.zeros(self._count, self._count, dtype=torch.float64)
        for name, shape in self._shapes.items():
            batches = self._uses.pop(name)  # its memory is free again after the turn
            for block in _blocks(batches, *shape):
                add_products(total, block)
            if not total.diagonal().sum().isfinite():
                raise not_finite(name)
        return total


def _blocks(batches: list[_Batch], rows: int, columns: int) -> Iterator[Tensor]:
    """Gradients of one weight in blocks of shape (n, about ``_COLUMNS``), uses added up."""
    uses = [use for _, found in batches for use in found]
    if not uses:
        return
    if all(isinstance(use, Lookup) for use in uses):
        batches, rows = _only_used(cast("list[tuple[int, list[Lookup]]]", batches))
    step = max(1, _COLUMNS // columns)
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


def _only_used(batches: list[tuple[int, list[Lookup]]]) -> tuple[list[_Batch], int]:
    """Restrict lookups to the rows that occur, few of a vocabulary; their number."""
    known = torch.unique(torch.cat([u.ids.flatten() for _, found in batches for u in found]))
    return [
        (size, [Lookup(torch.searchsorted(known, u.ids.contiguous()), u.right) for u in found])
        for size, found in batches
    ], len(known)


def add_products(total: Tensor, block: Tensor) -> None:
    """Add block · blockᵀ to ``total`` (n, n); ``block`` is (n, any)."""
    parts = torch.split(block, BLOCK)
    for i, left in enumerate(parts):
        for j, right in enumerate(parts[: i + 1]):
            product = (left @ right.T).to(total)
            rows = slice(i * BLOCK, i * BLOCK + len(left))
            columns = slice(j * BLOCK, j * BLOCK + len(right))
            total[rows, columns] += product
            if i != j:
                total[columns, rows] += product.T


def not_finite(name: str) -> NotFinite:
    """The error for a gradient of which an entry, the sum or the square is not finite."""
    return NotFinite(
        f"the gradient of {name} is not finite on a kernel probe, or too large to be squared; "
        "leave this candidate out"
    )


# Error 0.06 with 235 orthogonal gradients (r = n), far less for a trained model on similar texts. A
# prime, so that no two entries of a column share a bucket because of the weight's shape.
WIDTH = 65_521
_ENTRIES = 2**15  # of one gradient formed at once: a batch's stay near a core's cache


class Sketch:
    """Sketched inner products; folds the factors of every batch into n × m numbers at once."""

    def __init__(
        self, shapes: Shapes, examples: int, dtype: torch.dtype, device: torch.device,
        width: int = WIDTH,
    ) -> None:  # fmt: skip
        self._shapes, self._width = shapes, width
        sizes = (rows * columns for rows, columns in shapes.values())
        self._offsets = dict(zip(shapes, accumulate(sizes, initial=0), strict=False))
        self._signs = {name: _signs(name, shape, dtype, device) for name, shape in shapes.items()}
        self.values = torch.zeros(examples, width, dtype=dtype, device=device)

    def add(self, start: int, stop: int, uses: Mapping[str, list[Use]]) -> None:
        values = self.values[start:stop]
        for name, found in uses.items():
            for use in found:
                self._fold(values, name, use.signed(*self._signs[name]))
            if not values.sum().isfinite():
                raise not_finite(name)

    def gram(self) -> Tensor:
        total = torch.zeros(len(self.values), len(self.values), dtype=torch.float64)
        for block in torch.split(self.values, _COLUMNS, dim=1):
            add_products(total, block)
        return total

    def _fold(self, values: Tensor, name: str, use: Use) -> None:
        rows, columns = self._shapes[name]
        offset = self._offsets[name]
        if isinstance(use, Lookup):
            places = offset + use.ids[..., None] * columns + torch.arange(columns).to(use.ids)
            values.scatter_add_(
                1, (places % self._width).flatten(1), use.right.flatten(1).to(values)
            )
            return
        step = max(1, _ENTRIES // columns)
        for top in range(0, rows, step):
            block = use.block(top, min(top + step, rows))
            _fold(values, block, (offset + top * columns) % self._width)


def expected_error(matrix: NDArray[np.float64], parameters: int, width: int = WIDTH) -> float:
    """Expected relative Frobenius error of a sketched kernel K; 0 with a bucket per parameter."""
    if parameters <= width:
        return 0.0
    ratio = np.trace(matrix) ** 2 / np.square(matrix).sum()
    return float(np.sqrt((ratio + 1) / width))


def _fold(values: Tensor, block: Tensor, bucket: int) -> None:
    """Add the entries of ``block`` (B, any) to ``values`` (B, m) cyclically from ``bucket`` on."""
    width = values.shape[1]
    first = min(width - bucket, block.shape[1])
    values[:, bucket : bucket + first] += block[:, :first]
    whole, rest = divmod(block.shape[1] - first, width)
    if whole:
        values += block[:, first : first + whole * width].reshape(len(block), whole, width).sum(1)
    if rest:
        values[:, :rest] += block[:, -rest:]


def _signs(
    name: str, shape: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    draw = seeds.generator(0, "kernel sketch", name)
    rows, columns = (torch.from_numpy(draw.choice((-1.0, 1.0), size)) for size in shape)
    return rows.to(device, dtype), columns.to(device, dtype)
