"""Micro-batches whose graphs fit a memory: what a graph holds is measured on one example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lensllm.hessian.differentiable import implementations
from lensllm.models.batch import Example, collate, token_losses

_FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@dataclass(frozen=True)
class Footprint:
    """Bytes that a graph holds until its backward pass, beside the weights."""

    per_token: float  # padded
    per_target: float  # logits and what is made from them

    def of(self, group: Sequence[Example], config: Any) -> float:
        """Of one batch; at most that, where it is shorter than the example measured."""
        return padded(group, config) * self.per_token + targets(group) * self.per_target


def padded(group: Sequence[Example], config: Any) -> int:
    """Tokens of a batch, as ``collate`` pads it."""
    if not config.is_encoder_decoder:
        return len(group) * max(map(len, group))
    longest = max(len(e.prompt) for e in group), max(len(e.completion) for e in group)
    return len(group) * sum(longest)


def targets(group: Sequence[Example]) -> int:
    """Target tokens of a batch."""
    return sum(len(example.completion) for example in group)


def micro_batches(
    examples: Sequence[Example], fits: Callable[[Sequence[Example]], bool]
) -> list[list[Example]]:
    """All examples, like lengths together, as many to a batch as fit and one at least."""
    groups: list[list[Example]] = []
    for example in sorted(examples, key=len):
        if groups and fits([*groups[-1], example]):
            groups[-1].append(example)
        else:
            groups.append([example])
    return groups


def training_step(model: Any, example: Example) -> Footprint:
    """Of fine-tuning on ``example``, with fused attention where the model has it."""

    def build() -> object:
        return token_losses(model, collate([example], model.config).to(model.device))

    attention = "sdpa" if model._supports_sdpa else "eager"
    with implementations(model, attention=attention, experts="eager"), sdpa_kernel(_FUSED):
        return footprint(model, example, build)


def footprint(model: Any, example: Example, build: Callable[[], object]) -> Footprint:
    """Of the graph of ``example`` that hangs on what ``build`` returns."""
    vocabulary = model.get_output_embeddings().weight.shape[0]
    held: dict[int, tuple[int, bool]] = {}  # by storage: many tensors are views of one

    def note(tensor: Tensor) -> Tensor:
        at_head = tensor.dim() > 0 and tensor.shape[-1] == vocabulary
        held[_address(tensor)] = tensor.untyped_storage().nbytes(), at_head
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        graph = build()
    del graph  # not before: what it holds would have made room for more at the same addresses
    for tensor in (*model.parameters(), *model.buffers()):
        held.pop(_address(tensor), None)
    at_head = sum(size for size, is_at_head in held.values() if is_at_head)
    others = sum(size for size, is_at_head in held.values() if not is_at_head)
    return Footprint(others / padded([example], model.config), at_head / targets([example]))


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
