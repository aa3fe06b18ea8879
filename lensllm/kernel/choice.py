"""How the inner products of n gradients are computed, chosen by size.

Costs, in one batched forward and backward over the same probes of T tokens on average:

- factors from batched passes: about 0.7 for the passes without gradients of weights and 0.4 for the
  gradients of the probes, formed a few rows at a time; from single passes: 1.2 to 2;
- exact products add n / (3 T): 2 n² flops a weight beside 6 n T; and the factors of all probes stay
  in memory;
- a sketch adds one addition per weight and probe, and n · ``sketch.WIDTH`` numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from lensllm.errors import ModelError
from lensllm.kernel import batched, looped
from lensllm.kernel.contraction import Contraction, Product
from lensllm.kernel.sketch import WIDTH, Sketch
from lensllm.kernel.uses import Use, matrix_shape
from lensllm.models.batch import Example

Wanted = Literal["auto", "exact", "sketch"]
Weights = Mapping[str, Tensor]
Source = Callable[[Any, Weights, Sequence[Example]], tuple[dict[str, list[Use]], Tensor]]

MEMORY_BYTES = 8 * 2**30
# Exact while the products add at most a pass.
_EXACT_SHARE = 1.0
# A batch this large keeps a core's matrix products at full speed; larger ones only take memory.
_BATCH_TOKENS = 1024
# Activations, gradients at them and the formed rows, in multiples of the factors that are kept.
_WORKING = 3
# Gradients of the same probes that differ by more were not computed alike.
_ALIKE, _ALIKE_NARROW = 1e-3, 0.05  # narrow: bfloat16 and float16


@dataclass(frozen=True)
class Choice:
    """How a kernel was computed."""

    method: Literal["exact", "sketch"]
    passes: Literal["batched", "single"]  # forward and backward passes
    reason: str


def products(
    model: Any, probes: Sequence[Example], method: Wanted, memory_bytes: int
) -> tuple[Choice, Tensor, Tensor]:
    """How, the inner products (n, n) of the probes' gradients and residual norms (n,), float64.

    Raises ModelError.
    """
    # alike lengths together, so that little is padded
    order = sorted(range(len(probes)), key=lambda i: len(probes[i]))
    ordered = [probes[i] for i in order]
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not weights:
        raise ModelError("the kernel needs a trainable weight and every one is frozen")
    cost = _measure(model, weights, ordered)
    try:
        chosen, gram, norms = _products(model, weights, ordered, method, memory_bytes, cost)
    except batched.NotFactored as refused:  # not by the pair that was tried, but by another batch
        cost = cost.one_by_one(weights, str(refused))
        chosen, gram, norms = _products(model, weights, ordered, method, memory_bytes, cost)
    back = torch.tensor(order).argsort()
    return chosen, gram[back][:, back], norms[back]


def _products(
    model: Any, weights: Weights, probes: Sequence[Example], method: Wanted, memory_bytes: int,
    cost: _Cost,
) -> tuple[Choice, Tensor, Tensor]:  # fmt: skip
    chosen = _choose(cost, probes, method, memory_bytes)
    shapes = {name: matrix_shape(weight) for name, weight in weights.items()}
    product: Product = Contraction(shapes, len(probes))
    if chosen.method == "sketch":
        product = Sketch(shapes, len(probes), cost.dtype, model.device)
    free = memory_bytes - cost.held(probes, chosen.method)
    norms = torch.empty(len(probes), dtype=torch.float64)
    for start, stop in cost.batches(probes, free):
        uses, norms[start:stop] = cost.source(model, weights, probes[start:stop])
        product.add(start, stop, uses)
    return chosen, product.gram(), norms


@dataclass(frozen=True)
class _Cost:
    """What gradients of this model take."""

    source: Source
    why_single: str  # "" where batches work
    bytes_per_token: float  # of factors; 0 for whole gradients
    bytes_per_probe: int  # of whole gradients
    dtype: torch.dtype  # of sums

    def one_by_one(self, weights: Weights, why: str) -> _Cost:
        """The cost of single passes instead."""
        count = sum(weight.nbytes for weight in weights.values())
        return _Cost(looped.gradients, why, 0.0, count, self.dtype)

    def kept(self, tokens: int, probes: int) -> float:
        """Bytes of the factors, or gradients, of ``probes``."""
        return tokens * self.bytes_per_token + probes * self.bytes_per_probe

    def held(self, probes: Sequence[Example], method: str) -> float:
        """Bytes that stay until the end."""
        if method == "exact":
            return self.kept(sum(map(len, probes)), len(probes))
        return len(probes) * WIDTH * self.dtype.itemsize

    def least(self, probes: Sequence[Example], method: str) -> float:
        """Bytes with batches of one probe, the longest being last."""
        return self.held(probes, method) + _WORKING * self.kept(len(probes[-1]), 1)

    def batches(self, probes: Sequence[Example], free: float) -> Iterator[tuple[int, int]]:
        """Start and stop of each batch."""
        start = 0
        for stop in range(1, len(probes) + 1):
            more = stop + 1 - start
            tokens = more * len(probes[min(stop, len(probes) - 1)])
            full = tokens > _BATCH_TOKENS or _WORKING * self.kept(tokens, more) > free
            if stop == len(probes) or full or self.why_single:
                yield start, stop
                start = stop


def _measure(model: Any, weights: Weights, probes: Sequence[Example]) -> _Cost:
    """Try the shortest and the longest probe, batched and one by one, and compare."""
    dtype = torch.promote_types(model.dtype, torch.float32)
    pair = [probes[0], probes[-1]]
    shapes = {name: matrix_shape(weight) for name, weight in weights.items()}
    single, together = (Sketch(shapes, 2, dtype, model.device) for _ in range(2))
    for i, probe in enumerate(pair):
        single.add(i, i + 1, looped.gradients(model, weights, [probe])[0])
    cost = _Cost(batched.gradients, "", 0.0, 0, dtype)
    try:
        uses, _ = batched.gradients(model, weights, pair)
    except batched.NotFactored as refused:
        return cost.one_by_one(weights, str(refused))
    together.add(0, 2, uses)
    alike = _ALIKE if dtype == model.dtype else _ALIKE_NARROW
    if (together.values - single.values).norm() > alike * single.values.norm():
        return cost.one_by_one(weights, "gradients from a batch differ from single ones")
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for found in uses.values() for use in found for tensor in use.tensors
    }  # fmt: skip
    return replace(cost, bytes_per_token=sum(storages.values()) / (2 * len(pair[1])))


def _choose(cost: _Cost, probes: Sequence[Example], wanted: Wanted, memory_bytes: int) -> Choice:
    """The method, or ModelError when the memory is too small for it."""
    tokens = sum(map(len, probes)) / len(probes)
    passes: Literal["batched", "single"] = "single" if cost.why_single else "batched"
    share = len(probes) / (3 * tokens)
    fits = cost.least(probes, "exact") <= memory_bytes
    if wanted == "exact" or (wanted == "auto" and fits and share <= _EXACT_SHARE):
        method: Literal["exact", "sketch"] = "exact"
        reason = f"the products of {len(probes)} probes add {share:.0%} to a pass"
    elif wanted == "auto" and not fits:
        method = "sketch"
        reason = f"exact would take {_gib(cost.least(probes, 'exact'))}"
    else:
        method = "sketch"
        reason = f"exact products of {len(probes)} probes would add {share:.0%} to a pass"
    if wanted != "auto":
        reason = "as configured"
    needed = cost.least(probes, method)
    if needed > memory_bytes:
        raise ModelError(
            f"the kernel takes {_gib(needed)} for {len(probes)} probes by {method} products, more "
            f"than the {_gib(memory_bytes)} of kernel.memory_gib; raise it"
            + (", set kernel.method=sketch," if method == "exact" else "")
            + " or lower kernel.probes"
        )
    if cost.why_single:
        reason += f"; one probe at a time: {cost.why_single}"
    return Choice(method, passes, reason)


def _gib(count: float) -> str:
    return f"{count / 2**30:.2g} GiB"
