"""How the inner products of n gradients are computed, chosen by size.

Costs, in one batched forward and backward over the same probes of T tokens on average:

- factors from batched passes: about 0.7 for the passes without gradients of weights and 0.4 for the
  gradients of the probes, formed a few rows at a time; from single passes: 1.2 to 2;
- exact products add n / (3 T), 2 n² flops a weight beside 6 n T, nearly half of which is saved by
  symmetry beyond ``PROBES``; and the factors of all probes stay in memory;
- a sketch adds one addition per weight and probe, and n · ``sketch.WIDTH`` numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lensllm.core.errors import ModelError
from lensllm.models.batch import Example
from lensllm.ntk import batched, cost, looped
from lensllm.ntk.contraction import PROBES, Contraction, Product
from lensllm.ntk.cost import Cost, Weights, amount
from lensllm.ntk.sketch import Sketch
from lensllm.ntk.uses import matrix_shape

Method = Literal["exact", "sketch"]
Wanted = Literal["auto", "exact", "sketch"]

MEMORY_BYTES = 8 * 2**30
# Exact while the products add at most a pass.
_EXACT_SHARE = 1.0


@dataclass(frozen=True)
class Choice:
    """How a kernel was computed."""

    method: Method
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
    found = cost.measure(model, weights, ordered, memory_bytes)
    why = ""
    try:
        chosen, gram, norms = _products(model, weights, ordered, method, memory_bytes, found)
    except batched.NotFactored as refused:  # not by the pair that was tried, but by another batch
        why = str(refused)
    if why:  # out of the handler, which would keep the factors of the first try in memory
        found = replace(found, source=looped.gradients, why_single=why)
        chosen, gram, norms = _products(model, weights, ordered, method, memory_bytes, found)
    back = torch.tensor(order).argsort()
    return chosen, gram[back][:, back], norms[back]


def _products(
    model: Any, weights: Weights, probes: Sequence[Example], wanted: Wanted, memory_bytes: int,
    found: Cost,
) -> tuple[Choice, Tensor, Tensor]:  # fmt: skip
    chosen = _choose(found, probes, wanted, memory_bytes)
    shapes = {name: matrix_shape(weight) for name, weight in weights.items()}
    product: Product = Contraction(shapes, len(probes))
    if chosen.method == "sketch":
        product = Sketch(shapes, len(probes), found.dtype, model.device)
    norms = torch.empty(len(probes), dtype=torch.float64)
    for start, stop in found.batches(probes, chosen.method, memory_bytes):
        uses, norms[start:stop] = found.source(model, weights, probes[start:stop])
        product.add(start, stop, uses)
    return chosen, product.gram(), norms


def _choose(found: Cost, probes: Sequence[Example], wanted: Wanted, memory_bytes: int) -> Choice:
    """The method, or ModelError when the memory is too small for it."""
    share = _exact_share(probes)
    needed: dict[Method, float] = {m: found.least(probes, m) for m in get_args(Method)}
    fitting = {m for m, count in needed.items() if count <= memory_bytes}
    allowed = [m for m in needed if wanted in ("auto", m)]
    if not fitting.intersection(allowed):
        method = min(allowed, key=needed.__getitem__)
        raise ModelError(
            f"the kernel takes {amount(needed[method])} for {len(probes)} probes by {method} "
            f"products, more than the {amount(memory_bytes)} of kernel.memory_gib; raise it"
            + (", set kernel.method=auto" if fitting else "")
            + " or lower kernel.probes"
        )
    if wanted != "auto":
        method, reason = wanted, "as configured"
    elif "exact" not in fitting:
        method, reason = "sketch", f"exact would take {amount(needed['exact'])}"
    elif "sketch" not in fitting:
        method, reason = "exact", f"a sketch would take {amount(needed['sketch'])}"
    elif share > _EXACT_SHARE:
        method = "sketch"
        reason = f"exact products of {len(probes)} probes would add {share:.0%} to a pass"
    else:
        method, reason = "exact", f"the products of {len(probes)} probes add {share:.0%} to a pass"
    if found.why_single:
        return Choice(method, "single", f"{reason}; one probe at a time: {found.why_single}")
    return Choice(method, "batched", reason)


def _exact_share(probes: Sequence[Example]) -> float:
    """What exact products add to a pass; blocks above the diagonal are mirrored."""
    blocks = math.ceil(len(probes) / PROBES)
    return len(probes) ** 2 / (3 * sum(map(len, probes))) * (blocks + 1) / (2 * blocks)
