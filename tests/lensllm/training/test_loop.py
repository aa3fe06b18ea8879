"""The training loop: schedule, batches, early stopping, and the same bits twice."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensllm.config.sections import FineTune
from lensllm.core.errors import ModelError
from lensllm.training.evaluate import evaluate
from lensllm.training.loop import batches, fine_tune, learning_rate
from tests.lensllm.training.cells import CPU, FLOAT, TRAIN, VALIDATION, tiny


def tune(model, **settings):
    settings = FineTune(**{"batch_size": 8, "epochs": 3, "learning_rate": 1e-2, **settings})
    return fine_tune(model, TRAIN, VALIDATION, settings, seed=3, device=CPU, dtype=FLOAT)


@given(st.integers(1, 300), st.floats(0, 0.9))
def test_the_schedule_rises_to_its_peak_and_falls_towards_zero(steps: int, warmup: float):
    rates = [learning_rate(s, steps, 2.0, warmup) for s in range(steps)]
    assert all(0 < rate <= 2.0 for rate in rates)
    peak = int(np.argmax(rates))
    assert sorted(rates[: peak + 1]) == rates[: peak + 1]
    assert sorted(rates[peak:], reverse=True) == rates[peak:]
    assert pytest.approx(max(rates)) == 2.0


@given(st.lists(st.integers(1, 60), min_size=1, max_size=120), st.integers(1, 16))
def test_an_epoch_takes_every_example_once(lengths: list[int], size: int):
    made = list(batches(lengths, size, np.random.default_rng(0)))
    assert Counter(range(len(lengths))) == Counter(i for batch in made for i in batch)
    assert all(1 <= len(batch) <= size for batch in made)
    assert math.ceil(len(lengths) / size) == len(made)


def test_like_lengths_share_a_batch():
    lengths = np.random.default_rng(0).integers(1, 60, 160).tolist()
    made = list(batches(lengths, 16, np.random.default_rng(0)))
    spread = max(max(lengths[i] for i in b) - min(lengths[i] for i in b) for b in made)
    assert spread < 20


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_training_learns_and_keeps_the_best_epoch(kind: str):
    model = tiny(kind)
    tuned = tune(model, epochs=6)
    losses = [e.validation_nats_per_token for e in tuned.epochs]
    assert min(losses) == tuned.best.validation_nats_per_token
    assert losses[-1] < losses[0]
    kept = evaluate(model, VALIDATION, device=CPU, dtype=FLOAT)
    assert tuned.best.validation_nats_per_token == pytest.approx(kept.nats_per_token)


def test_the_learning_rate_integral_is_the_sum_over_steps():
    tuned = tune(tiny(), warmup=0.25)
    rates = [learning_rate(s, 15, 1e-2, 0.25) for s in range(15)]
    assert [e.step for e in tuned.epochs] == [0, 5, 10, 15]
    assert [0.0, *(sum(rates[:n]) for n in (5, 10, 15))] == pytest.approx(
        [e.learning_rate_integral for e in tuned.epochs]
    )


def test_a_learning_rate_too_small_to_help_keeps_the_pretrained_model():
    model = tiny()
    before = {n: p.clone() for n, p in model.state_dict().items()}
    tuned = tune(model, learning_rate=3e-1, epochs=1)
    if tuned.best.epoch == 0:
        after = model.state_dict()
        assert all(torch.equal(before[n], after[n]) for n in before)
    assert tuned.best.validation_nats_per_token <= tuned.epochs[0].validation_nats_per_token


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_the_same_cell_gives_the_same_bits(kind: str):
    one, two = tiny(kind), tiny(kind)
    assert tune(one).epochs[1:] == tune(two).epochs[1:]
    states = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in states)


def test_dropout_follows_the_cells_seed():
    settings = FineTune(batch_size=8, epochs=1)
    ends = []
    for seed in (3, 4):
        model = tiny()
        assert model.config.resid_pdrop == 0.1
        tuned = fine_tune(model, TRAIN, VALIDATION, settings, seed=seed, device=CPU, dtype=FLOAT)
        ends.append(tuned.epochs[-1].train_nats_per_token)
    assert ends[0] != ends[1]


def test_evaluation_does_not_depend_on_how_examples_are_batched():
    model = tiny()
    whole = evaluate(model, TRAIN, device=CPU, dtype=FLOAT)
    parts = [evaluate(model, [e], device=CPU, dtype=FLOAT) for e in TRAIN]
    assert sum(p.nats for p in parts) == pytest.approx(whole.nats, rel=1e-6)
    assert sum(p.tokens for p in parts) == whole.tokens == sum(len(e.completion) for e in TRAIN)


def test_a_loss_that_explodes_is_a_sentence():
    with pytest.raises(ModelError, match=r"not finite in epoch 1; lower finetune.learning_rate"):
        tune(tiny(), learning_rate=1e38, warmup=0)


def test_a_loss_that_no_learning_rate_mends_does_not_blame_it():
    model = tiny()
    with torch.no_grad():
        model.transformer.wte.weight.mul_(1e3)
        model.transformer.ln_f.weight.fill_(3e38)
    with pytest.raises(ModelError, match=r"loss of the pretrained model is not finite") as error:
        tune(model)
    assert "learning_rate" not in str(error.value)


def test_bfloat16_keeps_float32_weights_and_about_the_same_loss():
    exact, mixed = tiny(), tiny()
    settings = FineTune(batch_size=8, epochs=2)
    ends = [
        fine_tune(m, TRAIN, VALIDATION, settings, seed=0, device=CPU, dtype=d)
        for m, d in ((exact, FLOAT), (mixed, torch.bfloat16))
    ]
    assert {torch.float32} == {p.dtype for p in mixed.parameters()}
    first, second = (t.best.validation_nats_per_token for t in ends)
    assert first == pytest.approx(second, rel=0.02)
