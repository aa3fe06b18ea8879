"""A model in training: AdamW, clipped steps in micro-batches that fit, and the state of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lensllm.config.sections import FineTune
from lensllm.models.batch import Example
from lensllm.training import accumulate
from lensllm.training.evaluate import evaluate
from lensllm.training.memory import BatchSizeTuner
from lensllm.training.ranks import ALONE, Ranks, local, share_of, whole


class Optimiser:
    """AdamW on the trainable weights of ``model``, which it changes in place."""

    def __init__(
        self,
        model: Any,
        settings: FineTune,
        *,
        device: torch.device,
        dtype: torch.dtype,
        tuner: BatchSizeTuner | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.model, self.settings, self.device = model, settings, device
        self.tuner, self.ranks = tuner or BatchSizeTuner(), ranks
        self.named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._execution: dict[str, Any] = {
            "device": device,
            "dtype": dtype,
            "tuner": self.tuner,
            "ranks": ranks,
        }
        self._parameters = list(self.named.values())
        self._adamw = torch.optim.AdamW(
            self._parameters, lr=settings.peak, weight_decay=settings.weight_decay, fused=True
        )
        for p in self._parameters:  # allocated now, so that no step runs out of memory halfway
            self._adamw.state[p] = {
                "step": torch.zeros((), dtype=torch.float32, device=device),
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.zeros_like(p),
            }
        accumulate.set_checkpointing(model, self.tuner.plan.checkpointing)

    def step(self, examples: Sequence[Example], rate: float) -> Tensor:
        """Make one step at learning rate ``rate``; the mean loss in nats per token, shape ()."""
        for group in self._adamw.param_groups:
            group["lr"] = rate
        loss = accumulate.gradients(self.model, examples, **self._execution)
        torch.nn.utils.clip_grad_norm_(self._parameters, self.settings.clip)
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)
        return loss

    def loss(self, examples: Sequence[Example]) -> float:
        """Loss of ``examples`` in nats per token; leaves the model in evaluation mode."""
        return evaluate(self.model, examples, **self._execution).nats_per_token

    def weights(self) -> dict[str, Tensor]:
        """A copy of this rank's share of the weights, on the host."""
        return {n: local(p.detach()).to("cpu", copy=True) for n, p in self.named.items()}

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Put back what ``weights`` gave."""
        with torch.no_grad():
            for name, parameter in self.named.items():
                local(parameter).copy_(weights[name])

    def state(self) -> dict[str, Tensor]:
        """This rank's share of weights and moments, not copied, by ``weight/…``, ``exp_avg/…``."""
        return {name: local(tensor) for name, tensor in self._tensors()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what ``state`` gave."""
        with torch.no_grad():
            for name, tensor in self._tensors():
                local(tensor).copy_(tensors[name])

    def whole_state(self) -> dict[str, Tensor]:
        """The state of all ranks together, on the host; every rank must call this."""
        return {name: whole(tensor) for name, tensor in self._tensors()}

    def load_whole_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back this rank's share of what ``whole_state`` gave."""
        self.load_state({name: share_of(tensors[name], t) for name, t in self._tensors()})

    def _tensors(self) -> list[tuple[str, Tensor]]:
        weights = [(f"weight/{name}", p.detach()) for name, p in self.named.items()]
        moments = [
            (f"{moment}/{name}", value)
            for name, p in self.named.items()
            for moment, value in self._adamw.state[p].items()
        ]
        return weights + moments
