"""Inner products of n gradients, by the method that costs less as measured on two examples.

Costs, relative to one batched forward and backward pass over the examples, of T tokens on average:

- factors: about 1.1 from batched passes, 1.2 to 2 from single ones;
- exact products add n / (3 T): 2 n² flops a weight beside 6 n T, nearly half of which is saved by
  symmetry beyond ``products.BLOCK``; and the factors of all examples stay in memory;
- a sketch adds one addition per weight and example, and n · ``products.WIDTH`` numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lensllm.core.errors import ModelError
from lensllm.models.batch import Example
from lensllm.models.memory import amount
from lensllm.ntk.batched import NotFactored, batched_gradients
from lensllm.ntk.factors import Use, matrix_shape, single_gradients
from lensllm.ntk.products import BLOCK, WIDTH, Contraction, Sketch

Method = Literal["exact", "sketch"]
Wanted = Literal["auto", "exact", "sketch"]

MEMORY_BYTES = 8 * 2**30
# Products are exact while they add at most this many passes.
_EXACT_SHARE = 1.0


@dataclass(frozen=True)
class Computation:
    """Method and passes that computed a kernel, and why."""

    method: Method
    passes: Literal["batched", "single"]  # forward and backward passes
    reason: str


def products(
    model: Any, examples: Sequence[Example], method: Wanted, memory_bytes: int
) -> tuple[Computation, Tensor, Tensor]:
    """Computation, inner products of the gradients (n, n) and residual norms (n,), float64.

    Raises ``ModelError`` if every weight is frozen, or ``memory_bytes`` are too few.
    """
    # Examples of similar length share a batch, so that little is padded.
    order = sorted(range(len(examples)), key=lambda i: len(examples[i]))
    ordered = [examples[i] for i in order]
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not weights:
        raise ModelError("the kernel needs a trainable weight and every one is frozen")
    found = gradient_cost(model, weights, ordered, memory_bytes)
    why = ""
    try:
        chosen, gram, norms = _products(model, weights, ordered, method, memory_bytes, found)
    except NotFactored as refused:  # the tried pair was factored, another batch is not
        why = str(refused)
    if why:  # outside the handler, which would keep the factors of the first try in memory
        found = replace(found, why_single=why)
        chosen, gram, norms = _products(model, weights, ordered, method, memory_bytes, found)
    back = torch.tensor(order).argsort()
    return chosen, gram[back][:, back], norms[back]


def _products(
    model: Any, weights: Weights, examples: Sequence[Example], wanted: Wanted, memory_bytes: int,
    found: Cost,
) -> tuple[Computation, Tensor, Tensor]:  # fmt: skip
    chosen = _choose(found, examples, wanted, memory_bytes)
    shapes = {name: matrix_shape(weight) for name, weight in weights.items()}
    product = (
        Contraction(shapes, len(examples))
        if chosen.method == "exact"
        else Sketch(shapes, len(examples), found.dtype, model.device)
    )
    gradients = single_gradients if found.why_single else batched_gradients
    norms = torch.empty(len(examples), dtype=torch.float64)
    for start, stop in found.batches(examples, chosen.method, memory_bytes):
        uses, norms[start:stop] = gradients(model, weights, examples[start:stop])
        product.add(start, stop, uses)
    return chosen, product.gram(), norms


def _choose(
    found: Cost, examples: Sequence[Example], wanted: Wanted, memory_bytes: int
) -> Computation:
    """Choose the method. Raises ``ModelError`` if the memory is too small for it."""
    count, blocks = len(examples), math.ceil(len(examples) / BLOCK)
    # Cost of exact products as a share of a pass; blocks above the diagonal are mirrored.
    share = count**2 / (3 * sum(map(len, examples))) * (blocks + 1) / (2 * blocks)
    needed: dict[Method, float] = {m: found.least(examples, m) for m in get_args(Method)}
    fitting = {m for m, size in needed.items() if size <= memory_bytes}
    allowed = [m for m in needed if wanted in ("auto", m)]
    if not fitting.intersection(allowed):
        method = min(allowed, key=needed.__getitem__)
        raise ModelError(
            f"the kernel takes {amount(needed[method])} for {count} probes by {method} "
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
        reason = f"exact products of {count} probes would add {share:.0%} to a pass"
    else:
        method = "exact"
        reason = f"the products of {count} probes add {share:.0%} to a pass"
    if found.why_single:
        return Computation(method, "single", f"{reason}; one probe at a time: {found.why_single}")
    return Computation(method, "batched", reason)


Weights = Mapping[str, Tensor]

_BATCH_TOKENS = 1024  # enough for full speed on a core; larger batches only take memory
_WORKING = 3  # activations, gradients and formed rows, in multiples of the factors
_HEAD_WORKING = 5  # tensors of the logits' size: logits, log-softmax, softmax, two gradients
# Relative difference above which batched gradients count as wrong; narrow: bfloat16 and float16.
_TOLERANCE, _NARROW_TOLERANCE = 1e-3, 0.05


@dataclass(frozen=True)
class Cost:
    """Passes that compute the gradients, and the memory that they take."""

    why_single: str  # reason for single passes; "" if batches work
    dtype: torch.dtype  # of sums
    gradient_bytes: int  # one example's whole gradient, formed in single passes only
    logit_bytes: int  # one target's logits in ``dtype``
    bytes_per_token: float = 0.0  # factors
    bytes_per_target: float = 0.0  # the head's factors

    def kept(self, examples: Sequence[Example]) -> float:
        """Bytes of the factors, or whole gradients, of ``examples`` in one batch."""
        if self.why_single:
            return float(len(examples) * self.gradient_bytes)
        tokens = max(map(len, examples)) * self.bytes_per_token
        return len(examples) * (tokens + _most_targets(examples) * self.bytes_per_target)

    def working(self, examples: Sequence[Example]) -> float:
        """Peak bytes while ``examples`` are one batch."""
        targets = len(examples) * _most_targets(examples)
        others = self.kept(examples)
        if not self.why_single:
            others -= targets * self.bytes_per_target
        return _WORKING * others + _HEAD_WORKING * targets * self.logit_bytes

    def held(self, examples: Sequence[Example], method: str) -> float:
        """Bytes that stay in memory until all batches are done."""
        if method == "exact":
            return sum(self.kept([example]) for example in examples)
        return len(examples) * WIDTH * self.dtype.itemsize

    def least(self, examples: Sequence[Example], method: str) -> float:
        """Peak bytes with batches of one example: the least that ``method`` needs."""
        return self.held(examples, method) + max(self.working([example]) for example in examples)

    def batches(
        self, examples: Sequence[Example], method: str, memory_bytes: int
    ) -> Iterator[tuple[int, int]]:
        """Start and stop of batches of the ``examples``, sorted by length, that fit the memory."""
        free = memory_bytes - self.held(examples, method)
        start = 0
        for stop in range(1, len(examples) + 1):
            more = examples[start : stop + 1]
            needed = self.working(more) + self._padding(more, method)
            full = len(more) * len(more[-1]) > _BATCH_TOKENS or needed > free
            if stop == len(examples) or full or self.why_single:
                yield start, stop
                free -= self._padding(examples[start:stop], method)
                start = stop

    def _padding(self, batch: Sequence[Example], method: str) -> float:
        """Bytes that stay because of padding."""
        return self.kept(batch) - self.held(batch, method) if method == "exact" else 0.0


def gradient_cost(
    model: Any, weights: Weights, examples: Sequence[Example], memory_bytes: int
) -> Cost:
    """Measure the cost on the shortest and the longest example, batched and one by one.

    Batches are used if they give the same gradients. Raises ``ModelError`` if the memory does not
    hold one example's gradient.
    """
    dtype = torch.promote_types(model.dtype, torch.float32)
    gradient_bytes = sum(weight.nbytes for weight in weights.values())
    logit_bytes = len(model.get_output_embeddings().weight) * dtype.itemsize
    cost = Cost("", dtype, gradient_bytes, logit_bytes)
    if gradient_bytes > memory_bytes:
        raise ModelError(
            f"the kernel takes {amount(gradient_bytes)} for the gradient of a single probe, more "
            f"than the {amount(memory_bytes)} of kernel.memory_gib; raise it"
        )
    pair = [examples[0], examples[-1]]
    shapes = {name: matrix_shape(weight) for name, weight in weights.items()}
    single, together = (Sketch(shapes, 2, dtype, model.device) for _ in range(2))
    norms = torch.empty(2, dtype=torch.float64)
    for i, example in enumerate(pair):
        uses, norms[i : i + 1] = single_gradients(model, weights, [example])
        single.add(i, i + 1, uses)
        del uses
    try:
        uses, found = batched_gradients(model, weights, pair)
    except NotFactored as refused:
        return replace(cost, why_single=str(refused))
    together.add(0, 2, uses)
    limit = _TOLERANCE if dtype == model.dtype else _NARROW_TOLERANCE
    differ = (together.values - single.values).norm(dim=1) > limit * single.values.norm(dim=1)
    if differ.any() or ((found.cpu() - norms).abs() > limit * norms).any():
        return replace(cost, why_single="gradients from a batch differ from single ones")
    by_token, by_target = _bytes(model, weights, uses, pair)
    return replace(cost, bytes_per_token=by_token, bytes_per_target=by_target)


def _bytes(
    model: Any, weights: Weights, uses: Mapping[str, list[Use]], pair: Sequence[Example]
) -> tuple[float, float]:
    """Bytes of a padded pair's factors, by token and, for the head's, by target."""
    head = model.get_output_embeddings().weight
    at_head: dict[int, int] = {}  # by storage, since factors share inputs
    others: dict[int, int] = {}
    for name, found in uses.items():
        for tensor in (tensor for use in found for tensor in use.tensors):
            has_logits = weights[name] is head and head.shape[0] in tensor.shape[2:]
            storage = tensor.untyped_storage()
            (at_head if has_logits else others)[storage.data_ptr()] = storage.nbytes()
    tokens, targets = 2 * max(map(len, pair)), 2 * _most_targets(pair)
    return sum(others.values()) / tokens, sum(at_head.values()) / targets


def _most_targets(examples: Sequence[Example]) -> int:
    return max(len(example.completion) for example in examples)
