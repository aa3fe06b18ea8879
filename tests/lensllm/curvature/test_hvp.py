"""Hessian-vector products against finite differences and a dense Hessian, in float64."""

from contextlib import suppress

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lensllm.curvature import hvp
from lensllm.curvature.hvp import (
    BlockHessian,
    double_differentiable,
    example_losses,
    micro_batches,
)
from lensllm.curvature.layers import layers_of
from lensllm.errors import DataError, ModelError
from lensllm.models.batch import Example, collate


def _products(model, examples, vectors, **options):
    with double_differentiable(model):
        return BlockHessian(model, layers_of(model), examples, **options)(vectors)


def _smooth(model):
    """``model`` with GELU for ReLU, whose gradient jumps within a finite difference."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.GELU())
    return model


def test_losses_are_means_over_an_example(architecture, tiny_model, tiny_examples, plain_losses):
    model, examples = tiny_model(architecture), tiny_examples(5)
    found = example_losses(model, collate(examples, model.config))
    torch.testing.assert_close(found, plain_losses(model, examples), rtol=1e-6, atol=0)


def test_products_are_differences_of_gradients(
    architecture, tiny_model, tiny_examples, plain_losses, directions
):
    model, examples = _smooth(tiny_model(architecture)), tiny_examples(4)
    vectors = directions(model)
    products = _products(model, examples, vectors)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    gradient = torch.func.grad(lambda w: plain_losses(model, examples, w).mean())
    step = 1e-3  # small steps drown: most models round inside to float32 even in float64
    for layer, names in layers_of(model).items():
        pieces = vectors[layer].split([weights[n].numel() for n in names])
        moves = {n: p.view_as(weights[n]) for n, p in zip(names, pieces, strict=True)}
        ahead = gradient(weights | {n: weights[n] + step * m for n, m in moves.items()})
        behind = gradient(weights | {n: weights[n] - step * m for n, m in moves.items()})
        expected = torch.cat([(ahead[n] - behind[n]).flatten() / (2 * step) for n in names])
        error = (products[layer] - expected).norm() / expected.norm()
        assert error < 0.01, layer


@pytest.mark.parametrize("name", ["gpt2", "t5", "gpt_neo"])
def test_products_are_those_of_the_dense_blocks(
    name, tiny_model, tiny_examples, dense_blocks, directions
):
    model, examples = tiny_model(name), tiny_examples(3)
    vectors = directions(model)
    products = _products(model, examples, vectors)
    for layer, block in dense_blocks(model, examples).items():
        expected = block @ vectors[layer]
        assert (products[layer] - expected).norm() <= 1e-5 * expected.norm(), layer


def test_micro_batches_do_not_change_the_product(
    architecture, tiny_model, tiny_examples, directions
):
    model, examples = tiny_model(architecture), tiny_examples(7)
    vectors = directions(model)
    whole = _products(model, examples, vectors)
    for tokens in (1, 20):  # one example each; some together
        parts = _products(model, examples, vectors, tokens_per_batch=tokens)
        for layer, product in whole.items():
            torch.testing.assert_close(parts[layer], product, rtol=1e-4, atol=1e-6)


def test_graphs_too_large_to_keep_are_built_again(
    tiny_model, tiny_examples, directions, monkeypatch
):
    model, examples = tiny_model("gpt2"), tiny_examples(5)
    vectors = directions(model)
    kept = _products(model, examples, vectors, tokens_per_batch=20)
    monkeypatch.setattr(hvp, "_KEPT", 0)
    built = _products(model, examples, vectors, tokens_per_batch=20)
    assert all(torch.equal(built[layer], product) for layer, product in kept.items())


def test_only_the_layers_asked_for(tiny_model, tiny_examples, directions):
    model = tiny_model("gpt2")
    vectors = directions(model)
    everything = _products(model, tiny_examples(2), vectors)
    one = _products(model, tiny_examples(2), {"transformer.h.0": vectors["transformer.h.0"]})
    assert list(one) == ["transformer.h.0"]
    assert torch.equal(one["transformer.h.0"], everything["transformer.h.0"])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("training", [True, False])
def test_attention_and_mode_are_put_back(tiny_model, attention, training):
    model = tiny_model("t5").train(training)
    model.set_attn_implementation(attention)
    with suppress(InterruptedError), double_differentiable(model):
        assert model.config._attn_implementation == "eager"
        assert model.decoder.config._attn_implementation == "eager"
        assert not model.training
        raise InterruptedError
    assert model.config._attn_implementation == attention
    assert model.decoder.config._attn_implementation == attention
    assert model.training == training


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_cost_in_forward_passes(name, tiny_model, tiny_examples, directions):
    model, examples = tiny_model(name), tiny_examples(6)
    vectors = directions(model)
    batches = micro_batches(examples, model.config)
    with double_differentiable(model):
        with FlopCounterMode(display=False) as forward, torch.no_grad():
            for batch in batches:
                example_losses(model, batch)
        with FlopCounterMode(display=False) as counted:
            hessian = BlockHessian(model, layers_of(model), examples)
            hessian(vectors)
    measured = counted.get_total_flops() / forward.get_total_flops()
    assert hessian.forward_passes == pytest.approx(measured, rel=0.4)


def test_an_example_without_target(tiny_model):
    with pytest.raises(DataError, match="no target token"):
        BlockHessian(tiny_model("gpt2"), {}, [Example([1], [])])


def test_damaged_weights_name_the_layer(tiny_model, tiny_examples, directions):
    model = tiny_model("qwen3")
    vectors = directions(model)
    with torch.no_grad():
        model.lm_head.weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match="curvature of embeddings is not finite"):
        _products(model, tiny_examples(2), vectors)
