"""The gradients of one optimiser step: those of the mean over all its target tokens, whatever part
of the batch is in memory at a time.

A part that does not fit leaves nothing behind: gradients are cleared and random states put back
before the step is tried again with smaller parts.
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
from lensllm.training.memory import Fitting, is_out_of_memory, release, too_large
from lensllm.training.ranks import ALONE, Ranks


def gradients(
    model: Any,
    examples: Sequence[Example],
    *,
    device: torch.device,
    dtype: torch.dtype,
    fitting: Fitting,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Set the gradients of the examples' mean loss per target token, and return that loss.

    Raises ``ModelError`` when not even one example fits.
    """
    before = random_states(device)
    while True:
        loss = _try(model, examples, device, dtype, fitting.fit.micro_batch, ranks)
        if loss is not None:
            return ranks.sum(loss)
        model.zero_grad(set_to_none=True)
        release(device)
        share = math.ceil(len(examples) / ranks.size)
        if not fitting.shrink(share, model.supports_gradient_checkpointing):
            raise too_large(model, examples, device)
        if not ranks.alone:  # the others wait inside a pass that this rank has left
            raise ModelError(
                f"out of memory with {share} examples of a batch on each of {ranks.size} processes;"
                f" run again: it will take {fitting.fit.micro_batch} at a time"
            )
        set_checkpointing(model, fitting.fit.checkpointing)
        restore(before, device)


def _try(
    model: Any,
    examples: Sequence[Example],
    device: torch.device,
    dtype: torch.dtype,
    micro_batch: int,
    ranks: Ranks,
) -> Tensor | None:
    """One attempt at ``micro_batch`` examples at a time; None: they did not fit."""
    try:
        return _in_parts(model, examples, device, dtype, micro_batch, ranks)
    except (RuntimeError, MemoryError) as error:  # whose traceback holds the activations
        if not is_out_of_memory(error):
            raise
        return None


def _in_parts(
    model: Any,
    examples: Sequence[Example],
    device: torch.device,
    dtype: torch.dtype,
    micro_batch: int,
    ranks: Ranks,
) -> Tensor:
    """Backward of this rank's share of the mean; that share, shape ()."""
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
    """Let the blocks compute their activations again in the backward pass, or not."""
    if wanted == any(getattr(m, "gradient_checkpointing", False) for m in model.modules()):
        return
    with warnings.catch_warnings():  # transformers 5 has a new name for these, 5.5 the old one
        warnings.simplefilter("ignore", FutureWarning)
        if wanted:
            # Not reentrant: dropout's random states are put back, so the bits stay the same.
            model.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            model.gradient_checkpointing_disable()


def random_states(device: torch.device) -> dict[str, Tensor]:
    """What dropout draws from: the CPU's generator, and the device's own."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Draw from ``states`` on."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    elif "mps" in states:
        torch.mps.set_rng_state(states["mps"])
