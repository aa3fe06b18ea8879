"""The training loop of a cell.

Examples of like length share a batch, the head runs on target positions only, and no step waits for
a number from the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from lensllm.config.sections import FineTune
from lensllm.core import seeds
from lensllm.core.errors import ModelError
from lensllm.models.batch import Example
from lensllm.training import accumulate
from lensllm.training.evaluate import evaluate, finite
from lensllm.training.memory import Fitting, explained
from lensllm.training.ranks import ALONE, Ranks, local
from lensllm.training.resume import Checkpoints, Saved
from lensllm.training.schedule import batches, learning_rate


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


class Diverged(ModelError):
    """The training loss is no number any more."""

    tuned: Tuned  # its best is the epoch of the divergence, with an infinite validation loss


@dataclass
class _Progress:
    """How far a cell is: with weights, moments and random states all that it goes on from."""

    epoch: int = 1  # the one it is in
    batches: int = 0  # of it that are done
    step: int = 0
    integral: float = 0.0
    total: float = 0.0  # Σ over the epoch's steps of their losses
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
    fitting: Fitting | None = None,
    checkpoints: Checkpoints | None = None,
    ranks: Ranks = ALONE,
) -> Tuned:
    """Train ``model`` in place on ``train``; it ends with the weights best on ``validation``.

    ``dtype`` is that of the matrix products; weights and optimiser stay float32. ``fitting`` is
    what is known to fit into memory, and learns more; with ``checkpoints`` an interrupted cell goes
    on; on several ``ranks`` the model is sharded already. Raises ``Diverged`` when the loss stops
    being finite, and ``ModelError`` when it never was, or when not one example fits.
    """
    cell = _Cell(model, train, validation, recipe, seed, device, dtype, fitting, checkpoints, ranks)
    with explained(model, train, device):
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
        fitting: Fitting | None,
        checkpoints: Checkpoints | None,
        ranks: Ranks,
    ) -> None:
        self.model, self.recipe, self.seed = model, recipe, seed
        self.train, self.validation = train, validation
        self.device, self.dtype, self.ranks = device, dtype, ranks
        self.fitting, self.checkpoints = fitting or Fitting(), checkpoints
        self.lengths = [len(e) for e in train]
        self.steps = recipe.epochs * math.ceil(len(train) / recipe.batch_size)
        self.named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.parameters = list(self.named.values())
        self.best: dict[str, Tensor] = {}
        self.losses: list[Tensor] = []  # of steps not yet in the total: reading one would wait

    def run(self, on_epoch: Callable[[Epoch], None]) -> Tuned:
        torch.manual_seed(seeds.integer(self.seed, "dropout"))
        self.optimiser = self._optimiser()
        accumulate.set_checkpointing(self.model, self.fitting.fit.checkpointing)
        saved = self.checkpoints.load() if self.checkpoints else None
        self.at = self._go_on(saved) if saved else self._begin()
        while self.at.epoch <= self.recipe.epochs:
            self._pass()
            on_epoch(self.at.epochs[-1])
        self._take(self.best)
        self.model.eval()
        return Tuned(tuple(self.at.epochs), self.at.best)

    def _pass(self) -> None:
        """One epoch, or what is left of it."""
        at, recipe = self.at, self.recipe
        draw = seeds.generator(self.seed, "batches", at.epoch)
        order = list(batches(self.lengths, recipe.batch_size, draw))
        self.model.train()
        for indices in order[at.batches :]:
            self.losses.append(self._step([self.train[i] for i in indices]))
            at.batches += 1
            if self.checkpoints and self.checkpoints.due():
                self._save(self.checkpoints)
        self._add_up()
        mean = at.total / len(order)
        if not math.isfinite(mean):
            key = "lora.learning_rate" if recipe.method == "lora" else "learning_rate"
            error = Diverged(
                f"the training loss is not finite in epoch {at.epoch}; "
                f"lower finetune.{key} ({recipe.peak:g})"
            )
            last = Epoch(at.epoch, at.step, mean, math.inf, at.integral)
            error.tuned = Tuned((*at.epochs, last), last)
            raise error
        self._close_epoch(Epoch(at.epoch, at.step, mean, self._validate(), at.integral))
        at.epoch, at.batches, at.total = at.epoch + 1, 0, 0.0

    def _step(self, examples: list[Example]) -> Tensor:
        """One optimiser step; the batch's mean loss in nats per token, shape ()."""
        at, recipe = self.at, self.recipe
        rate = learning_rate(at.step, self.steps, recipe.peak, recipe.warmup)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        loss = accumulate.gradients(
            self.model,
            examples,
            device=self.device,
            dtype=self.dtype,
            fitting=self.fitting,
            ranks=self.ranks,
        )
        torch.nn.utils.clip_grad_norm_(self.parameters, recipe.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        at.step, at.integral = at.step + 1, at.integral + rate
        return loss

    def _validate(self) -> float:
        return evaluate(
            self.model,
            self.validation,
            device=self.device,
            dtype=self.dtype,
            fitting=self.fitting,
            ranks=self.ranks,
        ).nats_per_token

    def _close_epoch(self, epoch: Epoch) -> None:
        self.at.epochs.append(epoch)
        if self.at.best is epoch:
            # On the host: a device has little memory, and this is written once in a while.
            self.best = {n: _copied(p, torch.device("cpu")) for n, p in self.named.items()}

    def _add_up(self) -> None:
        if self.losses:
            for loss in torch.stack(self.losses).tolist():
                self.at.total += loss
            self.losses.clear()

    def _optimiser(self) -> torch.optim.AdamW:
        """AdamW with its moments: a step then allocates nothing, so it is made whole or not."""
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

    # --- interrupted and gone on with ----------------------------------------------------------
    def _begin(self) -> _Progress:
        self.at = _Progress()
        loss = finite(self._validate(), "the pretrained model")
        self._close_epoch(Epoch(0, 0, math.nan, loss, 0.0))
        return self.at

    def _save(self, checkpoints: Checkpoints) -> None:
        self._add_up()
        tensors = {f"random/{n}": t for n, t in accumulate.random_states(self.device).items()}
        for name, parameter in self.named.items():
            tensors[f"weight/{name}"] = local(parameter.detach())
            tensors[f"best/{name}"] = self.best[name]
            for moment, value in self.optimiser.state[parameter].items():
                tensors[f"{moment}/{name}"] = local(value)
        checkpoints.save(
            self.at.step, {**asdict(self.at), "fit": asdict(self.fitting.fit)}, tensors
        )

    def _go_on(self, saved: Saved) -> _Progress:
        state, tensors = dict(saved.state), saved.tensors
        self.fitting.adopt(state.pop("fit"))
        accumulate.set_checkpointing(self.model, self.fitting.fit.checkpointing)
        self._take({name: tensors[f"weight/{name}"] for name in self.named})
        for name, parameter in self.named.items():
            for moment, value in self.optimiser.state[parameter].items():
                local(value).copy_(tensors[f"{moment}/{name}"])
        self.best = {name: tensors[f"best/{name}"] for name in self.named}
        states = {n.removeprefix("random/"): t for n, t in tensors.items() if n[:7] == "random/"}
        accumulate.restore(states, self.device)
        return _Progress(**{**state, "epochs": [Epoch(**e) for e in state["epochs"]]})

    def _take(self, weights: dict[str, Tensor]) -> None:
        """Put ``weights`` into the model."""
        with torch.no_grad():
            for name, parameter in self.named.items():
                local(parameter).copy_(weights[name])


def _copied(parameter: Tensor, device: torch.device) -> Tensor:
    return local(parameter.detach()).to(device, copy=True)
