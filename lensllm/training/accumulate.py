"""The gradients of one optimiser step, accumulated over micro-batches that fit into memory.

A step whose micro-batch does not fit is tried again with smaller ones, from the same random states.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lensllm.core.errors import ModelError
from lensllm.models.batch import Example, collate, token_losses
from lensllm.training.evaluate import autocast
from lensllm.training.memory import BatchSizeTuner, is_out_of_memory, release, too_large
from lensllm.training.ranks import ALONE, Ranks


def gradients(
    model: Any,
    examples: Sequence[Example],
    *,
    device: torch.device,
    dtype: torch.dtype,
    tuner: BatchSizeTuner,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Set the gradients of the examples' mean loss per target token; returns it, nats, shape ().

    Raises ``ModelError`` if not even one example fits.
    """
    before = random_states(device)
    share = math.ceil(len(examples) / ranks.size)
    while True:
        try:
            loss = _backward(model, examples, device, dtype, tuner.plan.micro_batch, ranks)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return ranks.sum(loss)
        # Outside the handler, whose traceback holds the activations.
        model.zero_grad(set_to_none=True)
        release(device)
        if not tuner.shrink(share, model.supports_gradient_checkpointing):
            raise too_large(model, examples, device)
        if not ranks.alone:  # the other ranks wait inside a pass that this one has left
            raise ModelError(
                f"out of memory with {share} examples of a batch on each of {ranks.size} processes;"
                f" run again: it will take {tuner.plan.micro_batch} at a time"
            )
        set_checkpointing(model, tuner.plan.checkpointing)
        restore_random_states(before, device)


def _backward(
    model: Any,
    examples: Sequence[Example],
    device: torch.device,
    dtype: torch.dtype,
    micro_batch: int,
    ranks: Ranks,
) -> Tensor:
    """Run backward on this rank's share of the mean loss, and return that share, shape ()."""
    targets = sum(len(e.completion) for e in examples)
    mine, count = ranks.share(examples)
    size = micro_batch or len(mine)
    total = torch.zeros((), device=device)
    for start in range(0, len(mine), size):
        batch = collate(mine[start : start + size], model.config)
        counted = batch.owner < count - start
        with autocast(device, dtype):
            losses = token_losses(model, batch.to(device))
            if not counted.all():
                losses = losses[counted.to(device)]
            share = losses.sum() / targets
        (share * ranks.size).backward()  # type: ignore[no-untyped-call]  # FSDP takes the mean
        total = total + share.detach()
    return total


def set_checkpointing(model: Any, wanted: bool) -> None:
    """Turn gradient checkpointing of the model's blocks on or off."""
    if wanted == any(getattr(m, "gradient_checkpointing", False) for m in model.modules()):
        return
    with warnings.catch_warnings():  # transformers 5 has a new name for these, 5.5 the old one
        warnings.simplefilter("ignore", FutureWarning)
        if wanted:
            # Non-reentrant checkpoints restore dropout's random states: the same bits.
            model.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            model.gradient_checkpointing_disable()


def random_states(device: torch.device) -> dict[str, Tensor]:
    """Random states that dropout draws from: those of the CPU and of the device."""
    states = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states[device.type] = torch.get_device_module(device).get_rng_state()
    return states


def restore_random_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Continue drawing from ``states``."""
    torch.set_rng_state(states["cpu"])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[device.type])
