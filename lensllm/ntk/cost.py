"""What gradients of a model take, measured on two probes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lensllm.core.errors import ModelError
from lensllm.models.batch import Example
from lensllm.ntk import batched, looped
from lensllm.ntk.sketch import WIDTH, Sketch
from lensllm.ntk.uses import Use, matrix_shape

Weights = Mapping[str, Tensor]
Source = Callable[[Any, Weights, Sequence[Example]], tuple[dict[str, list[Use]], Tensor]]

# A batch this large keeps a core's matrix products at full speed; larger ones only take memory.
_BATCH_TOKENS = 1024
# Activations, gradients at them and the formed rows, in multiples of the factors that are kept.
_WORKING = 3
# Logits, in float32, at once: themselves, log-softmax, softmax and gradients of the two.
_HEAD_WORKING = 5
# Gradients of the same probes that differ by more were not computed alike.
_ALIKE, _ALIKE_NARROW = 1e-3, 0.05  # narrow: bfloat16 and float16


@dataclass(frozen=True)
class Cost:
    """How the gradients are computed, and the memory of it."""

    source: Source
    why_single: str  # "" where batches work
    dtype: torch.dtype  # of sums
    gradient_bytes: int  # of one probe's whole gradient, formed in single passes only
    logit_bytes: int  # of a target's logits as sums
    bytes_per_token: float = 0.0  # of factors
    bytes_per_target: float = 0.0  # of the head's factors

    def kept(self, probes: Sequence[Example]) -> float:
        """Bytes of the factors, or whole gradients, of ``probes`` in one batch."""
        if self.why_single:
            return float(len(probes) * self.gradient_bytes)
        longest = max(map(len, probes))
        a_probe = longest * self.bytes_per_token + _most(probes) * self.bytes_per_target
        return len(probes) * a_probe

    def working(self, probes: Sequence[Example]) -> float:
        """Bytes in use, at most, while ``probes`` are one batch."""
        targets = len(probes) * _most(probes)
        others = self.kept(probes)
        if not self.why_single:
            others -= targets * self.bytes_per_target
        return _WORKING * others + _HEAD_WORKING * targets * self.logit_bytes

    def held(self, probes: Sequence[Example], method: str) -> float:
        """Bytes that stay until the end."""
        if method == "exact":
            return sum(self.kept([probe]) for probe in probes)
        return len(probes) * WIDTH * self.dtype.itemsize

    def least(self, probes: Sequence[Example], method: str) -> float:
        """Bytes with batches of one probe."""
        return self.held(probes, method) + max(self.working([probe]) for probe in probes)

    def batches(
        self, probes: Sequence[Example], method: str, memory_bytes: int
    ) -> Iterator[tuple[int, int]]:
        """Start and stop of batches of the sorted ``probes`` that fit the memory."""
        free = memory_bytes - self.held(probes, method)
        start = 0
        for stop in range(1, len(probes) + 1):
            more = probes[start : stop + 1]
            needed = self.working(more) + self._padding(more, method)
            full = len(more) * len(more[-1]) > _BATCH_TOKENS or needed > free
            if stop == len(probes) or full or self.why_single:
                yield start, stop
                free -= self._padding(probes[start:stop], method)
                start = stop

    def _padding(self, batch: Sequence[Example], method: str) -> float:
        """Bytes that stay beyond those of the probes alone."""
        return self.kept(batch) - self.held(batch, method) if method == "exact" else 0.0


def measure(model: Any, weights: Weights, probes: Sequence[Example], memory_bytes: int) -> Cost:
    """Try the shortest and the longest probe, batched and one by one, and compare.

    Raises ModelError when the memory does not hold one probe's gradient.
    """
    dtype = torch.promote_types(model.dtype, torch.float32)
    gradient_bytes = sum(weight.nbytes for weight in weights.values())
    logit_bytes = len(model.get_output_embeddings().weight) * dtype.itemsize
    cost = Cost(looped.gradients, "", dtype, gradient_bytes, logit_bytes)
    if gradient_bytes > memory_bytes:
        raise ModelError(
            f"the kernel takes {amount(gradient_bytes)} for the gradient of a single probe, more "
            f"than the {amount(memory_bytes)} of kernel.memory_gib; raise it"
        )
    pair = [probes[0], probes[-1]]
    shapes = {name: matrix_shape(weight) for name, weight in weights.items()}
    single, together = (Sketch(shapes, 2, dtype, model.device) for _ in range(2))
    norms = torch.empty(2, dtype=torch.float64)
    for i, probe in enumerate(pair):
        uses, norms[i : i + 1] = looped.gradients(model, weights, [probe])
        single.add(i, i + 1, uses)
        del uses
    try:
        uses, found = batched.gradients(model, weights, pair)
    except batched.NotFactored as refused:
        return replace(cost, why_single=str(refused))
    together.add(0, 2, uses)
    limit = _ALIKE if dtype == model.dtype else _ALIKE_NARROW
    differ = (together.values - single.values).norm(dim=1) > limit * single.values.norm(dim=1)
    if differ.any() or ((found.cpu() - norms).abs() > limit * norms).any():
        return replace(cost, why_single="gradients from a batch differ from single ones")
    by_token, by_target = _bytes(model, weights, uses, pair)
    return replace(
        cost, source=batched.gradients, bytes_per_token=by_token, bytes_per_target=by_target
    )


def _bytes(
    model: Any, weights: Weights, uses: Mapping[str, list[Use]], pair: Sequence[Example]
) -> tuple[float, float]:
    """Of a padded pair's factors, by token and by target: with these go the head's gradients."""
    head = model.get_output_embeddings().weight
    by_head: dict[bool, dict[int, int]] = {True: {}, False: {}}  # storages: factors share inputs
    for name, found in uses.items():
        for use in found:
            for tensor in use.tensors:
                at_head = weights[name] is head and head.shape[0] in tensor.shape[2:]
                storage = tensor.untyped_storage()
                by_head[at_head][storage.data_ptr()] = storage.nbytes()
    others, heads = (sum(by_head[at_head].values()) for at_head in (False, True))
    return others / (2 * max(map(len, pair))), heads / (2 * _most(pair))


def _most(probes: Sequence[Example]) -> int:
    """Targets of the probe that has most."""
    return max(len(probe.completion) for probe in probes)


def amount(count: float) -> str:
    """Bytes, for people."""
    return f"{count / 2**30:.2g} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.2g} MiB"
