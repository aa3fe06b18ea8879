"""The loss of a set of examples, in batches that fit into memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lensllm.core.errors import ModelError
from lensllm.models.batch import Example, collate, example_means, token_losses
from lensllm.training.memory import BatchSizeTuner, is_out_of_memory, release, too_large
from lensllm.training.ranks import ALONE, Ranks


@dataclass(frozen=True)
class EvaluationResult:
    """Loss of a set of examples under one model."""

    nats: float  # sum over all target tokens
    tokens: int  # target tokens
    examples: NDArray[np.float64]  # (n,) mean nats per token of each, shortest example first

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.tokens


def evaluate(
    model: Any,
    examples: Sequence[Example],
    *,
    device: torch.device,
    dtype: torch.dtype,
    tuner: BatchSizeTuner | None = None,
    ranks: Ranks = ALONE,
) -> EvaluationResult:
    """Loss of ``examples`` under ``model``, which is left in evaluation mode.

    Raises ``ModelError`` if not one example fits into memory.
    """
    model.eval()
    tuner = tuner or BatchSizeTuner()
    # Weights gathered in inference mode could not be trained on afterwards.
    without_gradients = torch.inference_mode if ranks.alone else torch.no_grad
    mine, count = ranks.share(sorted(examples, key=len))
    nats, tokens, means = 0.0, 0, [torch.zeros(0, dtype=torch.float64)]
    start = 0
    while start < len(mine):
        size = min(tuner.plan.evaluation_batch, len(mine) - start)
        chosen = mine[start : start + size]
        batch = collate(chosen, model.config)
        losses = None
        try:
            with without_gradients(), autocast(device, dtype):
                losses = token_losses(model, batch.to(device)).cpu().double()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        if losses is None:
            release(device)
            if not ranks.alone or not tuner.shrink_evaluation(size):
                raise too_large(model, chosen, device)
            continue
        means.append(example_means(losses, batch)[: count - start])
        losses = losses[batch.owner < count - start]
        nats += float(losses.sum())
        tokens += len(losses)
        start += size
    totals = ranks.gather([(nats, tokens)])
    return EvaluationResult(
        sum(n for n, _ in totals),
        sum(t for _, t in totals),
        np.array(ranks.gather(torch.cat(means).tolist())),
    )


def require_finite(loss: float, whose: str) -> float:
    """Return ``loss``, or raise ``ModelError`` if it is NaN or infinite."""
    if not math.isfinite(loss):
        raise ModelError(
            f"the loss of {whose} is not finite, though every weight is: its outputs overflow or "
            "divide by zero; leave this candidate out"
        )
    return loss


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Context with matrix products in ``dtype``."""
    if dtype in (torch.float32, torch.float64):
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)
