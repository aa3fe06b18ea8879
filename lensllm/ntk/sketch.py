"""A CountSketch of the probes' gradients: constant memory, whatever the number of weights.

Entry p of the flattened gradient goes to bucket p mod m with a random sign (Charikar, Chen,
Farach-Colton 2002; for kernels Mohamadi, Bae, Sutherland 2023 project alike). Inner products stay
unbiased; with K's participation ratio r = (Σλ)² / Σλ² their relative Frobenius error is about
√((r + 1) / m). The sign of an entry is that of its row times that of its column, so that it costs
nothing: the factors are signed, not the gradient. m is a prime, so that no two entries of a column
share a bucket because of the weight's shape.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lensllm.core import seeds
from lensllm.ntk.contraction import COLUMNS, add_products, not_finite
from lensllm.ntk.uses import Lookup, Use

# Of 235 probes in directions of their own (r = n) the error is 0.06; of a trained model on alike
# texts r is far smaller.
WIDTH = 65_521
# Entries of one probe that are formed at once; of a batch of probes they stay near a core's cache.
_ENTRIES = 2**15


class Sketch:
    """Folds the factors of every batch into n × m numbers at once."""

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, int]],
        probes: int,
        dtype: torch.dtype,
        device: torch.device,
        width: int = WIDTH,
    ) -> None:
        self._shapes, self._width = shapes, width
        self._offsets = _offsets(shapes)
        self._signs = {name: _signs(name, shape, dtype, device) for name, shape in shapes.items()}
        self.values = torch.zeros(probes, width, dtype=dtype, device=device)

    def add(self, start: int, stop: int, uses: Mapping[str, list[Use]]) -> None:
        values = self.values[start:stop]
        for name, found in uses.items():
            for use in found:
                self._fold(values, name, use.signed(*self._signs[name]))
            if not values.sum().isfinite():
                raise not_finite(name)

    def gram(self) -> Tensor:
        total = torch.zeros(len(self.values), len(self.values), dtype=torch.float64)
        for block in torch.split(self.values, COLUMNS, dim=1):
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
    """√((r + 1) / m), r = tr(K)² / ‖K‖² being the participation ratio of K's spectrum.

    0 where every one of the ``parameters`` has a bucket of its own.
    """
    if parameters <= width:
        return 0.0
    ratio = np.trace(matrix) ** 2 / np.square(matrix).sum()
    return float(np.sqrt((ratio + 1) / width))


def _fold(values: Tensor, block: Tensor, bucket: int) -> None:
    """Add the entries of ``block`` (B, any) to ``values`` (B, m) from ``bucket`` on, round and
    round."""
    width = values.shape[1]
    first = min(width - bucket, block.shape[1])
    values[:, bucket : bucket + first] += block[:, :first]
    whole, rest = divmod(block.shape[1] - first, width)
    if whole:
        values += block[:, first : first + whole * width].reshape(len(block), whole, width).sum(1)
    if rest:
        values[:, :rest] += block[:, -rest:]


def _offsets(shapes: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """Where each weight begins in the flattened gradient."""
    offsets, end = {}, 0
    for name, (rows, columns) in shapes.items():
        offsets[name] = end
        end += rows * columns
    return offsets


def _signs(
    name: str, shape: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    draw = seeds.generator(0, "kernel sketch", name)
    rows, columns = (torch.from_numpy(draw.choice((-1.0, 1.0), size)) for size in shape)
    return rows.to(device, dtype), columns.to(device, dtype)
