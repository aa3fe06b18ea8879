"""The training loop of a cell, its learning-rate schedule and its batches.

No step waits for a number from the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lensllm.config.sections import FineTune
from lensllm.core import seeds
from lensllm.core.errors import ModelError
from lensllm.models.batch import Example
from lensllm.training import accumulate
from lensllm.training.evaluate import evaluate, require_finite
from lensllm.training.memory import BatchPlan, BatchSizeTuner, explain_out_of_memory
from lensllm.training.ranks import ALONE, Ranks, local
from lensllm.training.resume import Checkpoint, Checkpoints


@dataclass(frozen=True)
class Epoch:
    """One pass over the subset."""

    epoch: int
    step: int
    train_nats_per_token: float  # mean over the epoch's steps, while the weights move
    validation_nats_per_token: float
    learning_rate_integral: float  # Σ of learning rates so far: gradient-flow time ηt


@dataclass(frozen=True)
class TrainingResult:
    """Epochs of a training; the model then holds the weights of the best one."""

    epochs: tuple[Epoch, ...]  # epoch 0 is the pretrained model
    best: Epoch


class Diverged(ModelError):
    """The training loss is not finite any more."""

    # Its best epoch is that of the divergence, with an infinite validation loss.
    result: TrainingResult


@dataclass
class _Progress:
    """Position of a cell in its training."""

    epoch: int = 1  # current one, from 1
    batches: int = 0  # finished in this epoch
    step: int = 0
    integral: float = 0.0  # Σ of learning rates
    total: float = 0.0  # Σ of the losses of this epoch's steps
    epochs: list[Epoch] = field(default_factory=list)

    @property
    def best(self) -> Epoch:
        return min(self.epochs, key=lambda e: e.validation_nats_per_token)  # the first of equals


def fine_tune(
    model: Any,
    train: Sequence[Example],
    validation: Sequence[Example],
    settings: FineTune,
    *,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
    tuner: BatchSizeTuner | None = None,
    checkpoints: Checkpoints | None = None,
    ranks: Ranks = ALONE,
) -> TrainingResult:
    """Train ``model`` in place on ``train``; it ends with the weights best on ``validation``.

    Args:
        seed: seed of dropout and of the order of batches.
        dtype: dtype of the matrix products; weights and optimiser stay float32.
        tuner: batch sizes known to fit into memory; learns smaller ones.
        checkpoints: where an interrupted cell resumes from, and saves to.
        ranks: processes over which the model is sharded already.

    Raises:
        Diverged: the training loss stops being finite.
        ModelError: the loss was never finite, or not one example fits into memory.
    """
    tuner = tuner or BatchSizeTuner()
    cell = _Cell(model, train, validation, settings, seed, device, dtype, tuner, checkpoints, ranks)
    with explain_out_of_memory(model, train, device):
        return cell.run(on_epoch)


@dataclass
class _Cell:
    model: Any
    train: Sequence[Example]
    validation: Sequence[Example]
    settings: FineTune
    seed: int
    device: torch.device
    dtype: torch.dtype
    tuner: BatchSizeTuner
    checkpoints: Checkpoints | None
    ranks: Ranks

    def __post_init__(self) -> None:
        self.steps = self.settings.epochs * math.ceil(len(self.train) / self.settings.batch_size)
        self.named = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self.parameters = list(self.named.values())
        self.best: dict[str, Tensor] = {}
        self.losses: list[Tensor] = []  # not yet in the total: reading one waits for the device
        self.execution: dict[str, Any] = {
            "device": self.device,
            "dtype": self.dtype,
            "tuner": self.tuner,
            "ranks": self.ranks,
        }

    def run(self, on_epoch: Callable[[Epoch], None]) -> TrainingResult:
        torch.manual_seed(seeds.integer(self.seed, "dropout"))
        self.optimiser = self._optimiser()
        accumulate.set_checkpointing(self.model, self.tuner.plan.checkpointing)
        saved = self.checkpoints.load() if self.checkpoints else None
        self.state = self._resume(saved) if saved else self._start()
        while self.state.epoch <= self.settings.epochs:
            self._train_epoch()
            on_epoch(self.state.epochs[-1])
        self._load_weights(self.best)
        self.model.eval()
        return TrainingResult(tuple(self.state.epochs), self.state.best)

    def _train_epoch(self) -> None:
        """Train one epoch, or the rest of it after a resumption."""
        state, settings = self.state, self.settings
        draw = seeds.generator(self.seed, "batches", state.epoch)
        order = batches([len(e) for e in self.train], settings.batch_size, draw)
        self.model.train()
        for indices in order[state.batches :]:
            self.losses.append(self._step([self.train[i] for i in indices]))
            state.batches += 1
            if self.checkpoints and self.checkpoints.due():
                self._save(self.checkpoints)
        self._flush_losses()
        mean = state.total / len(order)
        if not math.isfinite(mean):
            key = "lora.learning_rate" if settings.method == "lora" else "learning_rate"
            error = Diverged(
                f"the training loss is not finite in epoch {state.epoch}; "
                f"lower finetune.{key} ({settings.peak:g})"
            )
            last = Epoch(state.epoch, state.step, mean, math.inf, state.integral)
            error.result = TrainingResult((*state.epochs, last), last)
            raise error
        self._close_epoch(Epoch(state.epoch, state.step, mean, self._validate(), state.integral))
        state.epoch, state.batches, state.total = state.epoch + 1, 0, 0.0

    def _step(self, examples: list[Example]) -> Tensor:
        """Make one optimiser step; the batch's mean loss in nats per token, shape ()."""
        state, settings = self.state, self.settings
        rate = learning_rate(state.step, self.steps, settings.peak, settings.warmup)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        loss = accumulate.gradients(self.model, examples, **self.execution)
        torch.nn.utils.clip_grad_norm_(self.parameters, settings.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        state.step, state.integral = state.step + 1, state.integral + rate
        return loss

    def _validate(self) -> float:
        return evaluate(self.model, self.validation, **self.execution).nats_per_token

    def _close_epoch(self, epoch: Epoch) -> None:
        self.state.epochs.append(epoch)
        if self.state.best is epoch:
            # Kept on the host: a device has little memory, and these are written rarely.
            self.best = {n: local(p.detach()).to("cpu", copy=True) for n, p in self.named.items()}

    def _flush_losses(self) -> None:
        """Add the losses of the last steps to the epoch's total."""
        if self.losses:
            for loss in torch.stack(self.losses).tolist():  # sum() would round otherwise
                self.state.total += loss
            self.losses.clear()

    def _optimiser(self) -> torch.optim.AdamW:
        """AdamW with its moments allocated, so that a step cannot run out of memory halfway."""
        settings = self.settings
        optimiser = torch.optim.AdamW(
            self.parameters, lr=settings.peak, weight_decay=settings.weight_decay, fused=True
        )
        for p in self.parameters:
            optimiser.state[p] = {
                "step": torch.zeros((), dtype=torch.float32, device=self.device),
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.zeros_like(p),
            }
        return optimiser

    def _start(self) -> _Progress:
        self.state = _Progress()
        loss = require_finite(self._validate(), "the pretrained model")
        self._close_epoch(Epoch(0, 0, math.nan, loss, 0.0))
        return self.state

    def _save(self, checkpoints: Checkpoints) -> None:
        self._flush_losses()
        tensors = {f"random/{n}": t for n, t in accumulate.random_states(self.device).items()}
        for name, parameter in self.named.items():
            tensors[f"weight/{name}"] = local(parameter.detach())
            tensors[f"best/{name}"] = self.best[name]
            for moment, value in self.optimiser.state[parameter].items():
                tensors[f"{moment}/{name}"] = local(value)
        state = {**asdict(self.state), "fit": asdict(self.tuner.plan)}
        checkpoints.save(self.state.step, state, tensors)

    def _resume(self, saved: Checkpoint) -> _Progress:
        """Put a checkpoint into model, optimiser and random states; the progress it was at."""
        values, tensors = saved
        self.tuner.plan = BatchPlan(**values.pop("fit"))
        accumulate.set_checkpointing(self.model, self.tuner.plan.checkpointing)
        self._load_weights({name: tensors[f"weight/{name}"] for name in self.named})
        for name, parameter in self.named.items():
            for moment, value in self.optimiser.state[parameter].items():
                local(value).copy_(tensors[f"{moment}/{name}"])
        self.best = {name: tensors[f"best/{name}"] for name in self.named}
        kinds = {"cpu", self.device.type}
        accumulate.restore_random_states({k: tensors[f"random/{k}"] for k in kinds}, self.device)
        values["epochs"] = [Epoch(**e) for e in values["epochs"]]
        return _Progress(**values)

    def _load_weights(self, weights: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.named.items():
                local(parameter).copy_(weights[name])


# Batches are cut from pools of this many, each sorted by length: little padding, yet other batches
# in every epoch.
_POOL_BATCHES = 16


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """Learning rate of ``step``: linear rise over the share ``warmup``, then linear fall to 0."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return peak * (step + 1) / rise
    return peak * (steps - step) / max(1, steps - rise)


def batches(lengths: Sequence[int], size: int, generator: np.random.Generator) -> list[list[int]]:
    """Indices of one epoch's batches: every example once, similar lengths together."""
    order = generator.permutation(len(lengths))
    cut: list[list[int]] = []
    for start in range(0, len(order), size * _POOL_BATCHES):
        pool = sorted(order[start : start + size * _POOL_BATCHES].tolist(), key=lengths.__getitem__)
        cut += [pool[i : i + size] for i in range(0, len(pool), size)]
    return [cut[i] for i in generator.permutation(len(cut))]
