"""Memory from shapes against what autograd really keeps, for every family of architectures."""

from dataclasses import astuple

import pytest

from lensllm.hessian.differentiable import graph_footprint, training_footprint
from lensllm.models.batch import Example, collate, token_losses
from lensllm.models.memory import memory
from tests.lensllm import families

EXAMPLE = Example(list(range(1, 17)), list(range(1, 13)))
# Its scan keeps states that no matrix reads or writes; adapters not called as peft calls them.
LEFT_OUT = {"mamba", "llama-low-rank"}
WHOLE = sorted(
    n for n in set(families.NAMES) - LEFT_OUT if "frozen" not in n and n[-7:] != "experts"
)


@pytest.mark.parametrize("name", WHOLE)
def test_activations_are_those_kept_within_a_factor_of_two(name: str):
    model = families.build(name).float()
    kept = training_footprint(model, EXAMPLE)
    measured = len(EXAMPLE) * kept.per_token + 3 * len(EXAMPLE.completion) * kept.per_target

    found = memory(model, [EXAMPLE])
    assert 0.5 < found.activations / measured < 2.0


@pytest.mark.parametrize("name", ["llama", "gpt-neox", "gemma3", "bloom", "mt5"])
def test_scores_count_where_attention_is_not_fused(name: str):
    """A matrix per head, which is most of what a long text takes."""
    model, text = families.build(name).float(), [1 + i % 20 for i in range(100)]
    model.set_attn_implementation("eager")
    long = Example(text, text[:60])
    kept = graph_footprint(model, long, lambda: token_losses(model, collate([long], model.config)))
    measured = len(long) * kept.per_token + 3 * len(long.completion) * kept.per_target
    assert 0.5 < memory(model, [long]).activations / measured < 2.0


def test_grows_with_the_batch_and_not_with_frozen_weights():
    model = families.build("llama")
    one, four = memory(model, [EXAMPLE]), memory(model, [EXAMPLE] * 4)
    assert four.activations == pytest.approx(4 * one.activations)
    assert astuple(four)[:4] == astuple(one)[:4]
    assert one.moments == 2 * one.gradients == 2 * one.weights
    assert one.total == pytest.approx(sum(astuple(one)))

    adapted = memory(families.build("llama-lora"), [EXAMPLE])
    assert adapted.weights > one.weights
    assert adapted.gradients < 0.3 * one.gradients


def test_checkpointing_takes_less():
    model = families.build("gpt2")
    whole = memory(model, [EXAMPLE] * 8).activations
    assert memory(model, [EXAMPLE] * 8, checkpointing=True).activations < whole
