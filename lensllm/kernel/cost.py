"""What gradients of a model take, measured on two probes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lensllm.errors import ModelError
from lensllm.kernel import batched, looped
from lensllm.kernel.sketch import WIDTH, Sketch
from lensllm.kernel.uses import Use, matrix_shape
from lensllm.models.batch import Example

Weights = Mapping[str, Tensor]
Source = Callable[[Any, Weights, Sequence[Example]], tuple[dict[str, list[Use]], Tensor]]

# A batch this large keeps a core's matrix products at full speed; larger ones only take memory.
_BATCH_TOKENS = 1024
# Activations, gradients at them and the formed rows, in multiples of the factors that are kept.
_WORKING = 3
# Gradients of the same probes that differ by more were not computed alike.
_ALIKE, _ALIKE_NARROW = 1e-3, 0.05  # narrow: bfloat16 and float16


@dataclass(frozen=True)
class Cost:
    """How the gradients are computed, and the memory of it."""

    source: Source
    why_single: str  # "" where batches work
    dtype: torch.dtype  # of sums
    gradient_bytes: int  # of one probe's whole gradient, formed in single passes only
    bytes_per_token: float = 0.0  # of factors
    bytes_per_target: float = 0.0  # of the head's factors

    def kept(self, probes: Sequence[Example]) -> float:
        """Bytes of the factors, or whole gradients, of ``probes`` in one batch."""
        if self.why_single:
            return float(len(probes) * self.gradient_bytes)
        longest, most = max(map(len, probes)), max(len(probe.completion) for probe in probes)
        a_probe = longest * self.bytes_per_token + most * self.bytes_per_target
        return len(probes) * a_probe

    def held(self, probes: Sequence[Example], method: str) -> float:
        """Bytes that stay until the end."""
        if method == "exact":
            return sum(self.kept([probe]) for probe in probes)
        return len(probes) * WIDTH * self.dtype.itemsize

    def least(self, probes: Sequence[Example], method: str) -> float:
        """Bytes with batches of one probe."""
        return self.held(probes, method) + _WORKING * max(self.kept([probe]) for probe in probes)

    def batches(self, probes: Sequence[Example], free: float) -> Iterator[tuple[int, int]]:
        """Start and stop of batches of the sorted ``probes`` that work within ``free`` bytes."""
        start = 0
        for stop in range(1, len(probes) + 1):
            more = probes[start : stop + 1]
            full = len(more) * len(more[-1]) > _BATCH_TOKENS or _WORKING * self.kept(more) > free
            if stop == len(probes) or full or self.why_single:
                yield start, stop
                start = stop


def measure(model: Any, weights: Weights, probes: Sequence[Example], memory_bytes: int) -> Cost:
    """Try the shortest and the longest probe, batched and one by one, and compare.

    Raises ModelError when the memory does not hold one probe's gradient.
    """
    dtype = torch.promote_types(model.dtype, torch.float32)
    cost = Cost(looped.gradients, "", dtype, sum(weight.nbytes for weight in weights.values()))
    if cost.gradient_bytes > memory_bytes:
        raise ModelError(
            f"the kernel takes {gib(cost.gradient_bytes)} for the gradient of a single probe, more "
            f"than the {gib(memory_bytes)} of kernel.memory_gib; raise it"
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
    longest, most = max(map(len, pair)), max(len(probe.completion) for probe in pair)
    others, heads = (sum(by_head[at_head].values()) for at_head in (False, True))
    return others / (2 * longest), heads / (2 * most)


def gib(count: float) -> str:
    """For people."""
    return f"{count / 2**30:.2g} GiB"
