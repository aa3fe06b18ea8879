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
from lensllm.training.evaluate import require_finite
from lensllm.training.memory import BatchPlan, BatchSizeTuner, explain_out_of_memory
from lensllm.training.optimiser import Optimiser
from lensllm.training.ranks import ALONE, Ranks
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
    with explain_out_of_memory(model, train, device):
        optimiser = Optimiser(model, settings, device=device, dtype=dtype, tuner=tuner, ranks=ranks)
        return train_epochs(optimiser, train, validation, seed, checkpoints, on_epoch)


def train_epochs(
    optimiser: Optimiser,
    train: Sequence[Example],
    validation: Sequence[Example],
    seed: int,
    checkpoints: Checkpoints | None = None,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> TrainingResult:
    """``fine_tune`` with an optimiser."""
    return _Cell(optimiser, train, validation, seed, checkpoints).run(on_epoch)


class _Cell:
    def __init__(
        self,
        optimiser: Optimiser,
        train: Sequence[Example],
        validation: Sequence[Example],
        seed: int,
        checkpoints: Checkpoints | None,
    ) -> None:
        self.optimiser, self.train, self.validation = optimiser, train, validation
        self.settings, self.seed, self.checkpoints = optimiser.settings, seed, checkpoints
        self.steps = self.settings.epochs * math.ceil(len(train) / self.settings.batch_size)
        self.best: dict[str, Tensor] = {}
        self.losses: list[Tensor] = []  # not yet in the total: reading one waits for the device

    def run(self, on_epoch: Callable[[Epoch], None]) -> TrainingResult:
        torch.manual_seed(seeds.integer(self.seed, "dropout"))
        saved = self.checkpoints.load() if self.checkpoints else None
        self.state = self._resume(saved) if saved else self._start()
        while self.state.epoch <= self.settings.epochs:
            self._train_epoch()
            on_epoch(self.state.epochs[-1])
        self.optimiser.load_weights(self.best)
        self.optimiser.model.eval()
        return TrainingResult(tuple(self.state.epochs), self.state.best)

    def _train_epoch(self) -> None:
        """Train one epoch, or the rest of it after a resumption."""
        state, settings = self.state, self.settings
        draw = seeds.generator(self.seed, "batches", state.epoch)
        order = batches([len(e) for e in self.train], settings.batch_size, draw)
        self.optimiser.model.train()
        for indices in order[state.batches :]:
            rate = learning_rate(state.step, self.steps, settings.peak, settings.warmup)
            self.losses.append(self.optimiser.step([self.train[i] for i in indices], rate))
            state.step, state.integral = state.step + 1, state.integral + rate
            state.batches += 1
            if self.checkpoints and self.checkpoints.due():
                self._save(self.checkpoints)
        self._flush_losses()
        mean = state.total / len(order)
        if not math.isfinite(mean):
            last = Epoch(state.epoch, state.step, mean, math.inf, state.integral)
            raise diverged(f"in epoch {state.epoch}", settings, (*state.epochs, last))
        validation = self.optimiser.loss(self.validation)
        self._close_epoch(Epoch(state.epoch, state.step, mean, validation, state.integral))
        state.epoch, state.batches, state.total = state.epoch + 1, 0, 0.0

    def _close_epoch(self, epoch: Epoch) -> None:
        self.state.epochs.append(epoch)
        if self.state.best is epoch:
            # Kept on the host: a device has little memory, and these are written rarely.
            self.best = self.optimiser.weights()

    def _flush_losses(self) -> None:
        """Add the losses of the last steps to the epoch's total."""
        if self.losses:
            for loss in torch.stack(self.losses).tolist():  # sum() would round otherwise
                self.state.total += loss
            self.losses.clear()

    def _start(self) -> _Progress:
        self.state = _Progress()
        loss = require_finite(self.optimiser.loss(self.validation), "the pretrained model")
        self._close_epoch(Epoch(0, 0, math.nan, loss, 0.0))
        return self.state

    def _save(self, checkpoints: Checkpoints) -> None:
        self._flush_losses()
        states = accumulate.random_states(self.optimiser.device)
        tensors = {
            **{f"random/{name}": state for name, state in states.items()},
            **{f"best/{name}": weight for name, weight in self.best.items()},
            **self.optimiser.state(),
        }
        state = {**asdict(self.state), "fit": asdict(self.optimiser.tuner.plan)}
        checkpoints.save(self.state.step, state, tensors)

    def _resume(self, saved: Checkpoint) -> _Progress:
        """Put a checkpoint into model, optimiser and random states; the progress it was at."""
        values, tensors = saved
        optimiser = self.optimiser
        optimiser.tuner.plan = BatchPlan(**values.pop("fit"))
        accumulate.set_checkpointing(optimiser.model, optimiser.tuner.plan.checkpointing)
        optimiser.load_state(tensors)
        self.best = {name: tensors[f"best/{name}"] for name in optimiser.named}
        kinds = {"cpu", optimiser.device.type}
        states = {kind: tensors[f"random/{kind}"] for kind in kinds}
        accumulate.restore_random_states(states, optimiser.device)
        values["epochs"] = [Epoch(**e) for e in values["epochs"]]
        return _Progress(**values)


def diverged(when: str, settings: FineTune, epochs: tuple[Epoch, ...]) -> Diverged:
    """The error for a loss that is not finite any more; the last of ``epochs`` is the result."""
    key = "lora.learning_rate" if settings.method == "lora" else "learning_rate"
    error = Diverged(
        f"the training loss is not finite {when}; lower finetune.{key} ({settings.peak:g})"
    )
    error.result = TrainingResult(epochs, epochs[-1])
    return error


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
