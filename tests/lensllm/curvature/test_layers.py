"""Which weights make one layer."""

import pytest

from lensllm.curvature.layers import layers_of

EXPECTED = {
    "gpt2": ["embeddings", "transformer.h.0", "transformer.ln_f"],
    "gpt_neo": ["embeddings", "transformer.h.0", "transformer.h.1", "transformer.ln_f"],
    "opt": ["embeddings", "model.decoder.final_layer_norm", "model.decoder.layers.0"],
    "t5": [
        "embeddings",
        "encoder.block.0",
        "encoder.final_layer_norm",
        "decoder.block.0",
        "decoder.final_layer_norm",
    ],
    "qwen3": ["embeddings", "model.layers.0", "model.norm", "head"],
}


def test_layers_of_every_architecture(architecture, tiny_model):
    assert list(layers_of(tiny_model(architecture))) == EXPECTED[architecture]


def test_every_trainable_weight_is_in_one_layer(architecture, tiny_model):
    model = tiny_model(architecture)
    named = [name for names in layers_of(model).values() for name in names]
    assert sorted(named) == sorted(name for name, _ in model.named_parameters())


@pytest.mark.parametrize("tied", ["gpt2", "t5"])
def test_a_tied_head_is_with_the_embeddings(tiny_model, tied):
    assert "head" not in layers_of(tiny_model(tied))


def test_frozen_weights_are_in_no_layer(tiny_model):
    model = tiny_model("qwen3")
    model.lm_head.weight.requires_grad_(False)
    assert "head" not in layers_of(model)
