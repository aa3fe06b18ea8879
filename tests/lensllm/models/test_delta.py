"""What fine-tuning changed, written and read again."""

import copy

import pytest
import torch

from lensllm.core.errors import ModelError
from lensllm.hessian.curvature import layers_of
from lensllm.models import delta


def _tuned(model):
    tuned = copy.deepcopy(model)
    with torch.no_grad():
        for i, weight in enumerate(tuned.parameters()):
            weight += 0.01 * (i + 1)
    return tuned


def test_a_model_moves_to_where_it_was(architecture, tiny_model, tmp_path):
    model = tiny_model(architecture)
    tuned = _tuned(model)
    delta.save(tuned, model, tmp_path / "weights.safetensors")
    layers, named = layers_of(model), dict(tuned.named_parameters())
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    moved = delta.apply(model, tmp_path / "weights.safetensors", layers)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight, named[name])
    for layer, names in layers.items():
        expected = torch.cat([(named[n] - before[n]).flatten() for n in names])
        torch.testing.assert_close(moved[layer], expected.detach())


def test_frozen_weights_are_not_kept(tiny_model, tmp_path):
    model = tiny_model("gpt2")
    tuned = _tuned(model)
    for name, weight in tuned.named_parameters():
        weight.requires_grad_(name.startswith("transformer.ln_f"))
    path = tmp_path / "weights.safetensors"
    delta.save(tuned, model, path)
    assert path.stat().st_size < 500
    with pytest.raises(ModelError, match="not those of this model"):
        delta.apply(model, path, layers_of(model))


def test_damaged_and_missing_weights(tiny_model, tmp_path):
    model = tiny_model("gpt2")
    path = tmp_path / "weights.safetensors"
    with pytest.raises(ModelError, match="trains the cell again"):
        delta.apply(model, path, layers_of(model))
    delta.save(_tuned(model), model, path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match="trains the cell again"):
        delta.apply(model, path, layers_of(model))


def test_weights_of_another_model(tiny_model, tmp_path):
    path = tmp_path / "weights.safetensors"
    other, model = tiny_model("gpt_neo"), tiny_model("gpt2")
    delta.save(_tuned(other), other, path)
    with pytest.raises(ModelError, match="not those of this model"):
        delta.apply(model, path, layers_of(model))
