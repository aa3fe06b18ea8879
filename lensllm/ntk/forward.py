"""Probes through the model, one row of target tokens each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lensllm.models.batch import Example, collate, head_on


def losses(model: Any, probes: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Mean loss per target token ℓ (B,), in nats, with its graph, and residual norms ρ (B,)."""
    batch = collate(probes, model.config).to(model.device)
    counts = torch.bincount(batch.owner, minlength=batch.size)
    # targets of unlike number are padded by repeating position 0 of the batch, at weight 0
    here = torch.arange(int(counts.max()), device=counts.device) < counts[:, None]
    places, targets = (torch.zeros_like(here, dtype=torch.long) for _ in range(2))
    places[here], targets[here] = batch.positions, batch.targets
    with head_on(model.get_output_embeddings(), places):
        logits = model(**batch.inputs, use_cache=False).logits
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    weights = here.to(logits.dtype) / counts[:, None]  # (B, targets)
    per_token = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return (per_token.view_as(weights) * weights).sum(1), _residual_norms(
        logits.detach(), targets, weights
    )


def _residual_norms(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """‖softmax − onehot‖ over a probe's tokens, scaled 1/√|T|.

    At the target it is 1 − p, summed from the others: near certainty the difference has no digits.
    """
    others = logits.softmax(-1).scatter_(-1, targets[..., None], 0.0)
    squares = others.square().sum(-1) + others.sum(-1).square()
    return (squares * weights).sum(1).sqrt()
