"""Losses of target tokens from token ids, for every architecture.

Only completion tokens carry loss. Causal models read prompt + completion in one row,
encoder-decoder models the prompt in the encoder and the completion in the decoder. The head, half
the cost of a small model, runs on the target positions alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Example:
    """Token ids of one example; the completion ends with the end-of-text token."""

    prompt: Sequence[int]
    completion: Sequence[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True)
class Batch:
    """Examples padded on the right, and where their target tokens are."""

    inputs: dict[str, Tensor]  # keyword arguments of the model's forward
    positions: Tensor  # (N,) rows of the flattened (batch * time) hidden states before a target
    targets: Tensor  # (N,) target token ids
    owner: Tensor  # (N,) the example, 0 … batch - 1, of each target
    size: int  # examples in the batch

    def to(self, device: torch.device) -> Batch:
        return replace(
            self,
            inputs={name: tensor.to(device) for name, tensor in self.inputs.items()},
            positions=self.positions.to(device),
            targets=self.targets.to(device),
            owner=self.owner.to(device),
        )


def _pad(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])


def collate(examples: Sequence[Example], config: Any) -> Batch:
    """Pad ``examples`` for a model with the transformers ``config``.

    Encoders need an attention mask; causal models padded on the right do not.
    """
    pad = config.pad_token_id or 0
    if config.is_encoder_decoder:
        start = config.decoder_start_token_id
        width = max(len(e.completion) for e in examples)
        lengths = torch.tensor([len(e.prompt) for e in examples])
        source = _pad([e.prompt for e in examples], pad)
        inputs = {
            "input_ids": source,
            "attention_mask": (torch.arange(source.shape[1]) < lengths[:, None]).long(),
            "decoder_input_ids": _pad([[start, *e.completion[:-1]] for e in examples], pad),
        }
        offsets = [0] * len(examples)
    else:
        width = max(len(e) for e in examples)
        inputs = {"input_ids": _pad([[*e.prompt, *e.completion] for e in examples], pad)}
        offsets = [len(e.prompt) - 1 for e in examples]
    rows = [
        row * width + offset + step
        for row, (example, offset) in enumerate(zip(examples, offsets, strict=True))
        for step in range(len(example.completion))
    ]
    counts = torch.tensor([len(e.completion) for e in examples])
    return Batch(
        inputs=inputs,
        positions=torch.tensor(rows),
        targets=torch.tensor([token for e in examples for token in e.completion]),
        owner=torch.repeat_interleave(torch.arange(len(examples)), counts),
        size=len(examples),
    )


@contextmanager
def head_on(head: nn.Module, positions: Tensor) -> Iterator[None]:
    """Let ``head`` see only the states at ``positions`` (rows, columns) of the flattened batch."""

    def select(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states = args[0].flatten(0, 1).index_select(0, positions.flatten())
        return (states.view(*positions.shape, -1), *args[1:])

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def target_logits(model: Any, batch: Batch) -> Tensor:
    """Logits that predict the batch's target tokens, shape (N, vocabulary)."""
    # Calling the base model instead would lose T5's scaling, soft caps and biases.
    with head_on(model.get_output_embeddings(), batch.positions[None]):
        logits: Tensor = model(**batch.inputs, use_cache=False).logits
    return logits[0]


def token_losses(model: Any, batch: Batch) -> Tensor:
    """Cross-entropy of each target token in nats, shape (N,); float32 at least."""
    logits = target_logits(model, batch)
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    return F.cross_entropy(logits, batch.targets, reduction="none")


def example_means(losses: Tensor, batch: Batch) -> Tensor:
    """Mean over each example's target tokens of ``losses`` (N,), shape (size,)."""
    owner = batch.owner.to(losses.device)
    totals = losses.new_zeros(batch.size).index_add(0, owner, losses)
    return totals / torch.bincount(owner, minlength=batch.size)
