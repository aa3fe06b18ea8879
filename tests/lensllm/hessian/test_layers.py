"""Which weights make one layer."""

import pytest

from lensllm.core.errors import ModelError
from lensllm.hessian.layers import layers_of
from tests.lensllm import families

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


@pytest.mark.parametrize("family", families.NAMES)
def test_every_trainable_weight_is_in_one_layer(family):
    model = families.build(family)
    layers = layers_of(model)
    named = [name for names in layers.values() for name in names]
    assert sorted(named) == sorted(n for n, p in model.named_parameters() if p.requires_grad)
    for layer in layers.keys() - {"embeddings", "head"}:
        assert all(name.startswith(f"{layer}.") for name in layers[layer]), layer


@pytest.mark.parametrize("tied", ["gpt2", "t5"])
def test_a_tied_head_is_with_the_embeddings(tiny_model, tied):
    assert "head" not in layers_of(tiny_model(tied))


def test_frozen_weights_are_in_no_layer(tiny_model):
    model = tiny_model("qwen3")
    model.lm_head.weight.requires_grad_(False)
    assert "head" not in layers_of(model)


def test_adapters_are_with_what_they_adapt():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=3, target_modules=["q_proj", "embed_tokens", "lm_head"])
    layers = layers_of(peft.get_peft_model(families.build("llama"), config))
    block = "base_model.model.model.layers"
    assert ["embeddings", f"{block}.0", f"{block}.1", "head"] == list(layers)
    assert all("lora" in name for names in layers.values() for name in names)


def test_a_model_without_trainable_weights(tiny_model):
    with pytest.raises(ModelError, match="every one of the model is frozen"):
        layers_of(tiny_model("gpt2").requires_grad_(False))
