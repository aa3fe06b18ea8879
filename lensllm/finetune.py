"""A cell: one candidate fine-tuned on one subset, by a training loop of our own.

Examples of like length share a batch and the head runs on target positions only; together that is
two to three times faster on a CPU than random padding with full logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lensllm import seeds
from lensllm.config import FineTune
from lensllm.errors import ModelError
from lensllm.models.batch import Batch, Example, collate, example_means, token_losses

# Batches are cut from pools of this many, each pool sorted by length: little padding, and still
# another composition of batches in every epoch.
_POOL_BATCHES = 16
_EVALUATION_BATCH = 64


@dataclass(frozen=True)
class Epoch:
    """One pass over the subset."""

    epoch: int
    step: int
    train_nats_per_token: float  # mean over the epoch's steps, while the weights move
    validation_nats_per_token: float
    learning_rate_integral: float  # Σ of learning rates so far: gradient-flow time ηt


@dataclass(frozen=True)
class Tuned:
    """What training found; the model holds the weights of the best epoch."""

    epochs: tuple[Epoch, ...]  # the first, epoch 0, is the pretrained model
    best: Epoch


@dataclass(frozen=True)
class HeldOut:
    """Loss of a set of examples."""

    nats: float  # summed over all target tokens
    tokens: int
    examples: NDArray[np.float64]  # of each its own mean nats per token, shortest first

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.tokens


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """Linear rise over the first ``warmup`` share of ``steps``, then linear fall to 0."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return peak * (step + 1) / rise
    return peak * (steps - step) / max(1, steps - rise)


def batches(
    lengths: Sequence[int], size: int, generator: np.random.Generator
) -> Iterator[list[int]]:
    """Indices of one epoch's batches: every example once, like lengths together."""
    order = generator.permutation(len(lengths))
    cut: list[list[int]] = []
    for start in range(0, len(order), size * _POOL_BATCHES):
        pool = sorted(order[start : start + size * _POOL_BATCHES].tolist(), key=lengths.__getitem__)
        cut += [pool[i : i + size] for i in range(0, len(pool), size)]
    for i in generator.permutation(len(cut)):
        yield cut[i]


def evaluate(
    model: Any, examples: Sequence[Example], *, device: torch.device, dtype: torch.dtype
) -> HeldOut:
    """Loss of ``examples`` under ``model``, in evaluation mode."""
    model.eval()
    order = sorted(range(len(examples)), key=lambda i: len(examples[i]))
    nats, tokens, means = 0.0, 0, [torch.zeros(0, dtype=torch.float64)]
    with torch.inference_mode(), _autocast(device, dtype):
        for start in range(0, len(order), _EVALUATION_BATCH):
            chosen = [examples[i] for i in order[start : start + _EVALUATION_BATCH]]
            batch = collate(chosen, model.config).to(device)
            losses = token_losses(model, batch).double().cpu()
            nats += float(losses.sum())
            tokens += len(losses)
            means.append(example_means(losses, batch))
    return HeldOut(nats, tokens, torch.cat(means).numpy())


def finite(loss: float, whose: str) -> float:
    """``loss``; raises ModelError when no training can mend it."""
    if not math.isfinite(loss):
        raise ModelError(
            f"the loss of {whose} is not finite, though every weight is: its outputs overflow or "
            "divide by zero; leave this candidate out"
        )
    return loss


def fine_tune(
    model: Any,
    train: Sequence[Example],
    validation: Sequence[Example],
    recipe: FineTune,
    *,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> Tuned:
    """Train ``model`` in place on ``train``; it ends with the weights best on ``validation``.

    ``dtype`` is that of the matrix products; weights and optimiser stay float32. Raises
    ``ModelError`` when the loss is not finite, or stops being so.
    """
    torch.manual_seed(seeds.integer(seed, "dropout"))
    lengths = [len(e) for e in train]
    steps = recipe.epochs * math.ceil(len(train) / recipe.batch_size)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )

    def validate() -> float:
        return evaluate(model, validation, device=device, dtype=dtype).nats_per_token

    step, integral = 0, 0.0
    epochs = [Epoch(0, 0, math.nan, finite(validate(), "the pretrained model"), 0.0)]
    best, weights = epochs[0], _snapshot(model)
    for number in range(1, recipe.epochs + 1):
        model.train()
        total = 0.0
        order = batches(lengths, recipe.batch_size, seeds.generator(seed, "batches", number))
        first = step
        for indices in order:
            rate = learning_rate(step, steps, recipe.learning_rate, recipe.warmup)
            batch = collate([train[i] for i in indices], model.config).to(device)
            total += _step(model, batch, optimiser, parameters, rate, recipe.clip, dtype)
            step, integral = step + 1, integral + rate
        mean = total / (step - first)
        if not math.isfinite(mean):
            raise ModelError(
                f"the training loss is not finite in epoch {number}; "
                f"lower finetune.learning_rate ({recipe.learning_rate:g})"
            )
        epochs.append(Epoch(number, step, mean, validate(), integral))
        on_epoch(epochs[-1])
        if epochs[-1].validation_nats_per_token < best.validation_nats_per_token:
            best, weights = epochs[-1], _snapshot(model)
    model.load_state_dict(weights)
    model.eval()
    return Tuned(tuple(epochs), best)


def _step(
    model: Any,
    batch: Batch,
    optimiser: torch.optim.Optimizer,
    parameters: list[torch.nn.Parameter],
    rate: float,
    clip: float,
    dtype: torch.dtype,
) -> float:
    """One optimiser step at learning rate ``rate``; the batch's mean loss in nats per token."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    with _autocast(batch.targets.device, dtype):
        loss = token_losses(model, batch).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(parameters, clip)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return float(loss.detach())


def _snapshot(model: Any) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)
