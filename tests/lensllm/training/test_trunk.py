"""Trunk and branches: the same bits however it is cut, against a loop written out."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensllm.config.sections import FineTune
from lensllm.models.batch import collate, token_losses
from lensllm.training.evaluate import evaluate
from lensllm.training.loop import Diverged
from lensllm.training.optimiser import Optimiser
from lensllm.training.resume import Checkpoints
from lensllm.training.schedule import learning_rate, trunk_examples, trunk_steps
from lensllm.training.trunk import train_branch
from tests.lensllm.training.cells import CPU, FLOAT, TRAIN, VALIDATION, tiny

SETTINGS = FineTune(batch_size=4, learning_rate=1e-2, warmup_steps=3)


def branch(size, *, kind="gpt2", start=None, checkpoints=None, settings=SETTINGS, dropout=0.1):
    """Model, result and the state kept where the branch of ``size`` leaves the trunk."""
    model, kept = tiny(kind, dropout), []
    result = train_branch(
        Optimiser(model, settings, device=CPU, dtype=FLOAT),
        TRAIN[:size],
        VALIDATION,
        seed=3,
        start=start,
        keep=lambda place, state: kept.append((place, state())),
        checkpoints=checkpoints,
    )
    return model, result, kept


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@given(st.integers(1, 100_000), st.integers(1, 64))
def test_a_branch_leaves_before_its_end_and_later_for_more_examples(size: int, batch: int):
    steps = math.ceil(size / batch)
    assert 0 <= trunk_steps(size, batch) < steps
    assert trunk_steps(size, batch) <= trunk_steps(size + batch, batch)
    assert trunk_examples(size, batch) < size


@given(st.integers(2, 300), st.integers(0, 40))
def test_the_rate_rises_stays_and_falls(steps: int, warmup: int):
    leaves = trunk_steps(steps, 1)
    rates = [learning_rate(s, leaves, steps, 2.0, warmup) for s in range(steps)]
    flat = [learning_rate(s, steps, steps + 1, 2.0, warmup) for s in range(steps)]
    assert rates[: leaves + 1] == pytest.approx(flat[: leaves + 1])
    assert all(0 < rate <= 2.0 for rate in rates)
    cooled = [rate / on for rate, on in zip(rates[leaves:], flat[leaves:], strict=True)]
    assert all(later < earlier for earlier, later in pairwise(cooled))
    assert cooled[-1] == pytest.approx(1 / (steps - leaves))


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_a_branch_is_the_loop_written_out(kind: str):
    model, result, _ = branch(40, kind=kind, dropout=0.0)
    other = tiny(kind, 0.0).train()
    adamw = torch.optim.AdamW(other.parameters(), lr=1e-2, weight_decay=SETTINGS.weight_decay)
    rates = [1e-2 / 3, 2e-2 / 3, *[1e-2] * 6, 1e-2, 0.5e-2]  # ten steps, two of them cooled down
    for step, rate in enumerate(rates):
        adamw.param_groups[0]["lr"] = rate
        batch = collate(TRAIN[4 * step : 4 * step + 4], other.config)
        token_losses(other, batch).mean().backward()
        torch.nn.utils.clip_grad_norm_(other.parameters(), SETTINGS.clip)
        adamw.step()
        adamw.zero_grad()
    assert torch.allclose(weights(model), weights(other), atol=1e-3)
    assert result.best.step == 10
    assert result.best.learning_rate_integral == pytest.approx(sum(rates))
    measured = evaluate(other, VALIDATION, device=CPU, dtype=FLOAT).nats_per_token
    assert result.best.validation_nats_per_token == pytest.approx(measured, abs=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_a_continued_trunk_has_the_bits_of_an_uninterrupted_one(kind: str):
    straight, expected, _ = branch(40, kind=kind)
    _, _, (first,) = branch(10, kind=kind)
    _, _, (second,) = branch(23, kind=kind, start=first)
    assert first[0].step < second[0].step == trunk_steps(23, 4)
    continued, result, _ = branch(40, kind=kind, start=second)
    assert torch.equal(weights(straight), weights(continued))
    assert expected == result


@pytest.mark.parametrize("stop", [1, 4, 8, 9])
def test_a_killed_branch_goes_on_to_the_same_bits(tmp_path: Path, stop: int):
    class Stopping(Checkpoints):
        steps = 0

        def due(self) -> bool:
            self.steps += 1
            if self.steps > stop:
                raise KeyboardInterrupt
            return True

    straight, expected, kept = branch(40)
    with pytest.raises(KeyboardInterrupt):
        branch(40, checkpoints=Stopping(tmp_path, 0.0, {}))
    again, result, kept_again = branch(40, checkpoints=Checkpoints(tmp_path, 60.0, {}))
    assert torch.equal(weights(straight), weights(again))
    assert expected == result
    for (place, state), (other, same) in zip(kept, kept_again, strict=False):
        assert place == other
        assert all(torch.equal(state[name], same[name]) for name in state)
    assert bool(kept_again) == (stop <= trunk_steps(40, 4))


def test_a_branch_learns_and_fewer_steps_than_the_warm_up_are_no_trouble():
    before = evaluate(tiny(), VALIDATION, device=CPU, dtype=FLOAT).nats_per_token
    _, few, _ = branch(5, settings=SETTINGS.model_copy(update={"warmup_steps": 50}))
    _, many, _ = branch(40)
    assert math.isfinite(few.best.validation_nats_per_token)
    assert many.best.validation_nats_per_token < before


def test_a_rate_that_diverges_says_so():
    settings = SETTINGS.model_copy(update={"learning_rate": 1e30, "warmup_steps": 0})
    with pytest.raises(Diverged, match=r"not finite on 40 examples; lower finetune.learning_rate"):
        branch(40, settings=settings)
