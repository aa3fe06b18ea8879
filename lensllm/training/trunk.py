"""Trunk and branches: one pass over the data at a constant rate, cooled down at chosen sizes.

The *trunk* takes batch after batch of the permutation at the peak learning rate, after a linear
warm-up. The *branch* of size D leaves it at 80 % of D's steps and cools down linearly to 0 over the
rest, so its loss is that of a run of its own on D examples (Hägele et al. 2024; Hu et al. 2024),
while the trunk is shared by all sizes. A branch leaves the trunk where the next size continues it.

Dropout is seeded step by step, so a trunk has the same bits however often it was interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lensllm.config.sections import FineTune
from lensllm.core import seeds
from lensllm.models.batch import Example
from lensllm.training import accumulate
from lensllm.training.loop import Epoch, TrainingResult, diverged
from lensllm.training.memory import BatchPlan
from lensllm.training.optimiser import Optimiser
from lensllm.training.resume import Checkpoints
from lensllm.training.schedule import learning_rate, trunk_steps


@dataclass(frozen=True)
class Position:
    """A place on the trunk or, behind its last step, on a branch."""

    step: int = 0
    integral: float = 0.0  # Σ of the learning rates so far: gradient-flow time


State = tuple[Position, Mapping[str, Tensor]]
"""A place on the trunk with the whole weights and moments there, on the host."""


def train_branch(
    optimiser: Optimiser,
    train: Sequence[Example],
    validation: Sequence[Example],
    *,
    seed: int,
    start: State | None,
    keep: Callable[[Position, Callable[[], Mapping[str, Tensor]]], None],
    checkpoints: Checkpoints | None = None,
) -> TrainingResult:
    """Continue the trunk to where the branch of ``train`` leaves it, and cool down.

    Args:
        train: D examples in the order of the permutation.
        validation: examples to be measured on at the end; none: that loss is NaN.
        seed: seed of dropout.
        start: a place on the trunk before the branch; None: the pretrained model.
        keep: called where the branch leaves the trunk, with that place and a function that gives
            the state there; every rank calls both or neither.
        checkpoints: where an interrupted branch resumes from, and saves to.

    Raises:
        Diverged: the training loss stops being finite.
    """
    return _Branch(optimiser, train, seed, checkpoints).run(validation, start, keep)


class _Branch:
    def __init__(
        self,
        optimiser: Optimiser,
        train: Sequence[Example],
        seed: int,
        checkpoints: Checkpoints | None,
    ) -> None:
        self.optimiser, self.train, self.seed = optimiser, train, seed
        self.settings: FineTune = optimiser.settings
        self.checkpoints = checkpoints
        self.steps = math.ceil(len(train) / self.settings.batch_size)
        self.leaves = trunk_steps(len(train), self.settings.batch_size)
        self.position = Position()
        self.losses: list[Tensor] = []  # of the branch's steps

    def run(
        self,
        validation: Sequence[Example],
        start: State | None,
        keep: Callable[[Position, Callable[[], Mapping[str, Tensor]]], None],
    ) -> TrainingResult:
        if not self._resume() and start is not None:
            self.position, state = start
            self.optimiser.load_whole_state(state)
        self.optimiser.model.train()
        if self.position.step <= self.leaves:
            self._advance(self.leaves)
            keep(self.position, self.optimiser.whole_state)
        self._advance(self.steps)
        mean = float(torch.stack(self.losses).mean())
        if not math.isfinite(mean):
            last = Epoch(1, self.steps, mean, math.inf, self.position.integral)
            raise diverged(f"on {len(self.train):,} examples", self.settings, (last,))
        self.optimiser.model.eval()
        loss = self.optimiser.loss(validation) if validation else math.nan
        epoch = Epoch(1, self.steps, mean, loss, self.position.integral)
        return TrainingResult((epoch,), epoch)

    def _advance(self, end: int) -> None:
        """Train up to step ``end``."""
        settings, size = self.settings, self.settings.batch_size
        for step in range(self.position.step, end):
            torch.manual_seed(seeds.integer(self.seed, "dropout", step))
            rate = learning_rate(
                step, self.leaves, self.steps, settings.peak, settings.warmup_steps
            )
            loss = self.optimiser.step(self.train[step * size : (step + 1) * size], rate)
            if step >= self.leaves:
                self.losses.append(loss)
            self.position = Position(step + 1, self.position.integral + rate)
            if self.checkpoints and self.checkpoints.due():
                self._save(self.checkpoints)

    def _save(self, checkpoints: Checkpoints) -> None:
        state: dict[str, Any] = {
            **asdict(self.position),
            "losses": [float(loss) for loss in self.losses],
            "fit": asdict(self.optimiser.tuner.plan),
        }
        checkpoints.save(self.position.step, state, self.optimiser.state())

    def _resume(self) -> bool:
        """Continue from a checkpoint; False without one."""
        saved = self.checkpoints.load() if self.checkpoints else None
        if saved is None:
            return False
        values, tensors = saved
        optimiser, device = self.optimiser, self.optimiser.device
        optimiser.tuner.plan = BatchPlan(**values["fit"])
        accumulate.set_checkpointing(optimiser.model, optimiser.tuner.plan.checkpointing)
        optimiser.load_state(tensors)
        self.position = Position(values["step"], values["integral"])
        self.losses = [torch.tensor(loss, device=device) for loss in values["losses"]]
        return True
