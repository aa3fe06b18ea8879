"""Where the first NaN or infinity of a gradient comes from.

Backward it flows down to the embedding, whatever layer it was born in: the first weight whose
gradient is seen to have one says nothing. Weights, outputs and gradients are looked at in turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from lensllm.models.batch import Example
from lensllm.models.load import weight_not_finite
from lensllm.ntk import looped


def culprit(model: Any, probes: Sequence[Example]) -> str:
    """What is not finite, for people; empty when weights, outputs and gradients all are."""
    if name := weight_not_finite(model):
        return f"the weight {name} is not finite; the checkpoint is damaged"
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    dtype = str(model.dtype).removeprefix("torch.")
    for probe in probes:
        with _watched(model) as seen:
            uses, _ = looped.gradients(model, weights, [probe])
        if seen.not_finite:
            return (
                f"the output of {seen.not_finite[0]} is not finite on a kernel probe, though every "
                f"weight is: it overflows {dtype} or divides by zero; leave this candidate out"
            )
        bad = [name for name, found in uses.items() if not _finite(*found[0].tensors)]
        if bad:
            nearest = max(bad, key=lambda name: seen.turns.get(name.rpartition(".")[0], -1))
            return (
                f"on a kernel probe the gradient is not finite from {nearest} on downwards, though "
                "every weight and output is: the backward pass of what comes after it overflows "
                f"{dtype} or is wrong; leave this candidate out"
            )
    return ""


@dataclass
class _Seen:
    """Modules in a forward pass."""

    not_finite: list[str] = field(default_factory=list)  # by their output, innermost first
    turns: dict[str, int] = field(default_factory=dict)  # the larger, the nearer to the loss


@contextmanager
def _watched(model: nn.Module) -> Iterator[_Seen]:
    seen = _Seen()

    def look(name: str, out: Any) -> None:
        seen.turns[name] = len(seen.turns)
        parts = out if isinstance(out, tuple | list) else (out,)
        if not _finite(*(part for part in parts if isinstance(part, Tensor))):
            seen.not_finite.append(name)

    handles = [
        module.register_forward_hook(lambda _, __, out, name=name: look(name, out))
        for name, module in model.named_modules()
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _finite(*tensors: Tensor) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors)
