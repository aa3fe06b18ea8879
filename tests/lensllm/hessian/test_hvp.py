"""Hessian-vector products against dense Hessians, their cost, and the test of their symmetry."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import FlopCounterMode

from lensllm.core.errors import ModelError
from lensllm.hessian.curvature import layers_of
from lensllm.hessian.differentiable import double_differentiable
from lensllm.hessian.hvp import BlockHessian, example_losses, require_symmetry
from lensllm.models.batch import collate
from tests.lensllm import families


def _products(model, examples, vectors, **options):
    with double_differentiable(model):
        return BlockHessian(model, layers_of(model), examples, **options)(vectors)


def _whole(model, examples, vectors, **options):
    with double_differentiable(model):
        return BlockHessian(model, layers_of(model), examples, **options).whole(vectors)


def test_losses_are_means_over_an_example(architecture, tiny_model, tiny_examples, plain_losses):
    model, examples = tiny_model(architecture), tiny_examples(5)
    found = example_losses(model, collate(examples, model.config))
    torch.testing.assert_close(found, plain_losses(model, examples), rtol=1e-6, atol=0)


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


def test_whole_products_are_those_of_the_dense_hessian(
    tiny_model, tiny_examples, plain_losses, directions
):
    model, examples = tiny_model("gpt2"), tiny_examples(2)
    vectors = directions(model)
    layers, named = layers_of(model), dict(model.named_parameters())
    names = [name for group in layers.values() for name in group]
    model.set_attn_implementation("eager")

    def loss(flat):
        pieces = flat.split([named[name].numel() for name in names])
        own = {n: p.view_as(named[n]) for n, p in zip(names, pieces, strict=True)}
        return plain_losses(model, examples, own).mean()

    start = torch.cat([named[name].detach().flatten() for name in names])
    dense = torch.autograd.functional.hessian(loss, start, vectorize=True)
    expected = dense @ torch.cat([vectors[layer] for layer in layers])
    products = _whole(model, examples, vectors)
    torch.testing.assert_close(torch.cat([products[layer] for layer in layers]), expected)


def test_one_layers_part_of_a_whole_product_is_its_block(tiny_model, tiny_examples, directions):
    """u that is zero elsewhere; and by linearity these parts add to the product with all."""
    model, examples = tiny_model("qwen3"), tiny_examples(3)
    vectors = directions(model)
    blocks, whole = _products(model, examples, vectors), _whole(model, examples, vectors)
    sums = {layer: torch.zeros_like(vector) for layer, vector in vectors.items()}
    for layer, vector in vectors.items():
        own = _whole(model, examples, {layer: vector})
        torch.testing.assert_close(own[layer], blocks[layer], rtol=1e-4, atol=1e-6)
        for other, part in own.items():
            sums[other] += part
    for layer, expected in whole.items():
        torch.testing.assert_close(sums[layer], expected, rtol=1e-4, atol=1e-6)


def test_memory_does_not_change_the_product(architecture, tiny_model, tiny_examples, directions):
    """One example each; some together and built again; and all together, kept."""
    model, examples = tiny_model(architecture), tiny_examples(7)
    vectors = directions(model)
    kept = {"memory_bytes": 1e9}
    expected = _products(model, examples, vectors, **kept), _whole(model, examples, vectors, **kept)
    for memory in (0, 400_000, None):
        options = {"memory_bytes": memory}
        found = (
            _products(model, examples, vectors, **options),
            _whole(model, examples, vectors, **options),
        )
        for products, wanted in zip(found, expected, strict=True):
            for layer, product in wanted.items():
                torch.testing.assert_close(products[layer], product, rtol=1e-4, atol=1e-6)


def test_only_the_layers_asked_for(tiny_model, tiny_examples, directions):
    model = tiny_model("gpt2")
    vectors = directions(model)
    asked = {"transformer.h.0": vectors["transformer.h.0"]}
    everything = _products(model, tiny_examples(3), vectors)
    for memory in (0, 1e9):
        one = _products(model, tiny_examples(3), asked, memory_bytes=memory)
        assert list(one) == ["transformer.h.0"]
        torch.testing.assert_close(one["transformer.h.0"], everything["transformer.h.0"])


@pytest.mark.parametrize("memory", [0, 1e9])
@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_cost_in_forward_passes(family, memory):
    """Of unpadded examples, as multiplications are counted."""
    model, examples = families.build(family), families.probes(3)
    with double_differentiable(model):
        with FlopCounterMode(display=False) as forward, torch.no_grad():
            for example in examples:
                example_losses(model, collate([example], model.config))
        with FlopCounterMode(display=False) as counted:
            hessian = BlockHessian(model, layers_of(model), examples, memory_bytes=memory)
            vectors = {
                layer: torch.ones(sum(weight.numel() for weight in weights), dtype=torch.float64)
                for layer, weights in hessian.parameters.items()
            }
            for compute in (hessian, hessian.whole):
                before = hessian.forward_passes, counted.get_total_flops()
                compute(vectors)
                measured = (counted.get_total_flops() - before[1]) / forward.get_total_flops()
                found = hessian.forward_passes - before[0]
                assert found == pytest.approx(measured, rel=0.2), compute
        measured = counted.get_total_flops() / forward.get_total_flops()
        assert hessian.forward_passes == pytest.approx(measured, rel=0.2)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_damaged_weights_are_named(tiny_model, tiny_examples, directions, value):
    model = tiny_model("qwen3")
    with torch.no_grad():
        model.lm_head.weight[0, 0] = value
    with pytest.raises(ModelError, match=r"weight lm_head\.weight is not finite; the checkpoint"):
        _products(model, tiny_examples(2), directions(model))


def test_products_that_are_not_finite_name_the_layer(tiny_model, tiny_examples, directions):
    model = tiny_model("qwen3")
    vectors = directions(model)
    vectors["model.norm"][0] = torch.inf
    with pytest.raises(ModelError, match=r"curvature of layer model\.norm is not finite"):
        _products(model, tiny_examples(2), vectors)


def test_activations_that_overflow_name_the_layer(tiny_model, tiny_examples, directions):
    model = tiny_model("gpt2").float()
    vectors = {layer: vector.float() for layer, vector in directions(model).items()}
    with torch.no_grad():
        model.lm_head.weight *= 1e38
    with pytest.raises(ModelError, match="curvature of layer embeddings is not finite"):
        _products(model, tiny_examples(2), vectors)


def _normal(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:])


class _Fused(torch.autograd.Function):
    """A norm whose backward pass computes numbers that autograd takes for constants, as a kernel's
    are."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _normal(x)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        found = torch.func.vjp(_normal, x.detach())[1](upstream.detach())[0]
        return found.detach()


class _Once(_Fused):
    """One that says so, which torch.autograd.grad does not heed."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        return _Fused.backward(ctx, upstream)


def _checked(function: Any, place: str) -> None:
    model = families.build("llama").float()
    model.get_submodule(place).register_forward_hook(lambda module, args, out: function(out))
    with double_differentiable(model):
        require_symmetry(BlockHessian(model, layers_of(model), families.probes(2)[:1]))


@pytest.mark.parametrize("place", ["model.norm", "model.layers.1.mlp", "model.embed_tokens"])
def test_fused_layers_are_found_wherever_they_are(place):
    _checked(_normal, place)
    for fused in (_Fused, _Once):
        with pytest.raises(ModelError, match=r"not symmetric, by .*%: one of its layers"):
            _checked(fused.apply, place)
