"""Losses of target tokens, checked against unpadded examples with full logits."""

import pytest
import torch

from lensllm.models.batch import Example, collate, target_logits, token_losses


def test_losses_do_not_depend_on_padding(architecture, tiny_model, tiny_examples, plain_losses):
    model, examples = tiny_model(architecture), tiny_examples(6)
    batch = collate(examples, model.config)
    losses = token_losses(model, batch)
    means = [losses[batch.owner == i].mean() for i in range(batch.size)]
    torch.testing.assert_close(torch.stack(means), plain_losses(model, examples), rtol=1e-6, atol=0)


def test_logits_are_those_of_the_target_positions(
    architecture, tiny_model, tiny_examples, plain_logits
):
    model, examples = tiny_model(architecture), tiny_examples(4)
    expected = torch.cat(plain_logits(model, examples))
    torch.testing.assert_close(
        target_logits(model, collate(examples, model.config)), expected, rtol=1e-5, atol=1e-6
    )


def test_targets_and_owners_follow_the_examples(tiny_model):
    model = tiny_model("gpt2")
    batch = collate([Example([1, 2, 3], [4]), Example([5], [6, 7])], model.config)
    assert batch.inputs["input_ids"].tolist() == [[1, 2, 3, 4], [5, 6, 7, 0]]
    assert batch.targets.tolist() == [4, 6, 7]
    assert batch.owner.tolist() == [0, 1, 1]
    assert batch.positions.tolist() == [2, 4, 5]  # each predicts the token behind it
    assert batch.size == 2


def test_an_encoder_ignores_padding_and_the_decoder_starts_with_its_token(tiny_model):
    model = tiny_model("t5")
    batch = collate([Example([1, 2, 3], [4]), Example([5], [6, 7])], model.config)
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.inputs["decoder_input_ids"].tolist() == [[0, 0], [0, 6]]
    assert batch.positions.tolist() == [0, 2, 3]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_of_half_precision_models_are_float32(tiny_model, tiny_examples, dtype):
    model = tiny_model("gpt2").to(dtype)
    assert token_losses(model, collate(tiny_examples(2), model.config)).dtype == torch.float32


def test_the_head_is_left_without_hooks(tiny_model, tiny_examples):
    model = tiny_model("gpt2")
    token_losses(model, collate(tiny_examples(2), model.config))
    assert not model.get_output_embeddings()._forward_pre_hooks
