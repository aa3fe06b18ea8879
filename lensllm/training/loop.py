"""The training loop of a cell, its learning-rate schedule and its batches.

Examples of similar length share a batch, the head runs on target positions only, and no step waits
for a number from the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
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
from lensllm.training.memory import BatchSizeTuner, explain_out_of_memory
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
    """How far a cell is; with weights, moments and random states, all that resuming needs."""

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
    recipe: FineTune,
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
        on_epoch: called after every epoch.
        tuner: batch sizes known to fit into memory; learns smaller ones.
        checkpoints: where an interrupted cell resumes from, and saves to.
        ranks: processes over which the model is sharded already.

    Raises:
        Diverged: the training loss stops being finite.
        ModelError: the loss was never finite, or not one example fits into memory.
    """
    cell = _Cell(model, train, validation, recipe, seed, device, dtype, tuner, checkpoints, ranks)
    with explain_out_of_memory(model, train, device):
        return cell.run(on_epoch)


class _Cell:
    def __init__(
        self,
        model: Any,
        train: Sequence[Example],
        validation: Sequence[Example],
        recipe: FineTune,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
        tuner: BatchSizeTuner | None,
        checkpoints: Checkpoints | None,
        ranks: Ranks,
    ) -> None:
        self.model, self.recipe, self.seed = model, recipe, seed
        self.train, self.validation = train, validation
        self.device, self.dtype, self.ranks = device, dtype, ranks
        self.tuner, self.checkpoints = tuner or BatchSizeTuner(), checkpoints
        self.lengths = [len(e) for e in train]
        self.steps = recipe.epochs * math.ceil(len(train) / recipe.batch_size)
        self.named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.parameters = list(self.named.values())
        self.best: dict[str, Tensor] = {}
        # Losses of steps not yet in the total; reading one would wait for the device.
        self.losses: list[Tensor] = []

    def run(self, on_epoch: Callable[[Epoch], None]) -> TrainingResult:
        torch.manual_seed(seeds.integer(self.seed, "dropout"))
        self.optimiser = self._optimiser()
        accumulate.set_checkpointing(self.model, self.tuner.plan.checkpointing)
        saved = self.checkpoints.load() if self.checkpoints else None
        self.state = self._resume(saved) if saved else self._start()
        while self.state.epoch <= self.recipe.epochs:
            self._train_epoch()
            on_epoch(self.state.epochs[-1])
        self._load_weights(self.best)
        self.model.eval()
        return TrainingResult(tuple(self.state.epochs), self.state.best)

    def _train_epoch(self) -> None:
        """Train one epoch, or the rest of it after a resumption."""
        state, recipe = self.state, self.recipe
        draw = seeds.generator(self.seed, "batches", state.epoch)
        order = list(batches(self.lengths, recipe.batch_size, draw))
        self.model.train()
        for indices in order[state.batches :]:
            self.losses.append(self._step([self.train[i] for i in indices]))
            state.batches += 1
            if self.checkpoints and self.checkpoints.due():
                self._save(self.checkpoints)
        self._flush_losses()
        mean = state.total / len(order)
        if not math.isfinite(mean):
            key = "lora.learning_rate" if recipe.method == "lora" else "learning_rate"
            error = Diverged(
                f"the training loss is not finite in epoch {state.epoch}; "
                f"lower finetune.{key} ({recipe.peak:g})"
            )
            last = Epoch(state.epoch, state.step, mean, math.inf, state.integral)
            error.result = TrainingResult((*state.epochs, last), last)
            raise error
        self._close_epoch(Epoch(state.epoch, state.step, mean, self._validate(), state.integral))
        state.epoch, state.batches, state.total = state.epoch + 1, 0, 0.0

    def _step(self, examples: list[Example]) -> Tensor:
        """Make one optimiser step; the batch's mean loss in nats per token, shape ()."""
        state, recipe = self.state, self.recipe
        rate = learning_rate(state.step, self.steps, recipe.peak, recipe.warmup)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        loss = accumulate.gradients(
            self.model,
            examples,
            device=self.device,
            dtype=self.dtype,
            tuner=self.tuner,
            ranks=self.ranks,
        )
        torch.nn.utils.clip_grad_norm_(self.parameters, recipe.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        state.step, state.integral = state.step + 1, state.integral + rate
        return loss

    def _validate(self) -> float:
        return evaluate(
            self.model,
            self.validation,
            device=self.device,
            dtype=self.dtype,
            tuner=self.tuner,
            ranks=self.ranks,
        ).nats_per_token

    def _close_epoch(self, epoch: Epoch) -> None:
        self.state.epochs.append(epoch)
        if self.state.best is epoch:
            # Kept on the host: a device has little memory, and these are written rarely.
            self.best = {n: _copied(p, torch.device("cpu")) for n, p in self.named.items()}

    def _flush_losses(self) -> None:
        """Add the losses of the last steps to the epoch's total."""
        if self.losses:
            for loss in torch.stack(self.losses).tolist():
                self.state.total += loss
            self.losses.clear()

    def _optimiser(self) -> torch.optim.AdamW:
        """AdamW with its moments allocated, so that a step cannot run out of memory halfway."""
        optimiser = torch.optim.AdamW(
            self.parameters,
            lr=self.recipe.peak,
            weight_decay=self.recipe.weight_decay,
            fused=True,
        )
        for p in self.parameters:
            optimiser.state[p] = {
                "step": torch.zeros((), dtype=torch.float32, device=self.device),
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.zeros_like(p),
            }
        return optimiser

    # --- checkpoints ---------------------------------------------------------------------------
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
        checkpoints.save(
            self.state.step, {**asdict(self.state), "fit": asdict(self.tuner.plan)}, tensors
        )

    def _resume(self, saved: Checkpoint) -> _Progress:
        """Put a checkpoint into model, optimiser and random states; the progress it was at."""
        values, tensors = dict(saved.state), saved.tensors
        self.tuner.adopt(values.pop("fit"))
        accumulate.set_checkpointing(self.model, self.tuner.plan.checkpointing)
        self._load_weights({name: tensors[f"weight/{name}"] for name in self.named})
        for name, parameter in self.named.items():
            for moment, value in self.optimiser.state[parameter].items():
                local(value).copy_(tensors[f"{moment}/{name}"])
        self.best = {name: tensors[f"best/{name}"] for name in self.named}
        states = {n.removeprefix("random/"): t for n, t in tensors.items() if n[:7] == "random/"}
        accumulate.restore_random_states(states, self.device)
        return _Progress(**{**values, "epochs": [Epoch(**e) for e in values["epochs"]]})

    def _load_weights(self, weights: dict[str, Tensor]) -> None:
        """Copy ``weights`` into the model."""
        with torch.no_grad():
            for name, parameter in self.named.items():
                local(parameter).copy_(weights[name])


def _copied(parameter: Tensor, device: torch.device) -> Tensor:
    return local(parameter.detach()).to(device, copy=True)


# Batches are cut from pools of this many batches, each pool sorted by length: little padding, and
# still other batches in every epoch.
_POOL_BATCHES = 16


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """Learning rate of ``step``: linear rise over the share ``warmup``, then linear fall to 0."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return peak * (step + 1) / rise
    return peak * (steps - step) / max(1, steps - rise)


def batches(
    lengths: Sequence[int], size: int, generator: np.random.Generator
) -> Iterator[list[int]]:
    """Indices of one epoch's batches: every example once, similar lengths together."""
    order = generator.permutation(len(lengths))
    cut: list[list[int]] = []
    for start in range(0, len(order), size * _POOL_BATCHES):
        pool = sorted(order[start : start + size * _POOL_BATCHES].tolist(), key=lengths.__getitem__)
        cut += [pool[i : i + size] for i in range(0, len(pool), size)]
    for i in generator.permutation(len(cut)):
        yield cut[i]
