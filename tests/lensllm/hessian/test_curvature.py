"""Curvature of every layer and Hutchinson's traces against dense blocks; which weights make a layer."""

import copy
import math

import pytest
import torch

from lensllm.core.errors import DataError, ModelError
from lensllm.hessian.curvature import (
    DENSITY_STEPS,
    layers_of,
    measure_curvature,
    rademacher,
    traces,
)
from lensllm.hessian.differentiable import double_differentiable
from lensllm.hessian.hvp import BlockHessian
from lensllm.models.cost import forward_flops, shape_of
from tests.lensllm import families


def _moved(model, scale=0.05, seed=3):
    """A step of every weight, by layer, taken."""
    generator = torch.Generator().manual_seed(seed)
    named, moved = dict(model.named_parameters()), {}
    for layer, names in layers_of(model).items():
        steps = [
            scale * torch.randn(named[n].shape, generator=generator, dtype=torch.float64)
            for n in names
        ]
        with torch.no_grad():
            for name, step in zip(names, steps, strict=True):
                named[name] += step
        moved[layer] = torch.cat([step.flatten() for step in steps])
    return moved


def _measure(model, moved, examples, **options):
    return measure_curvature(model, moved, examples, **{"trace_vectors": 2, **options})


def _positive(block, v):
    values, vectors = torch.linalg.eigh(block)
    return float((vectors.T @ v) ** 2 @ values.clamp(min=0))


@pytest.mark.parametrize("name", ["gpt2", "t5", "qwen3"])
def test_layers_are_those_of_the_dense_blocks(name, tiny_model, tiny_examples, dense_blocks):
    model, examples = tiny_model(name), tiny_examples(3)
    moved = _moved(model)
    found = _measure(model, moved, examples, lanczos_steps=400, tolerance=0.002)
    mean = dense_blocks(model, examples)
    single = [dense_blocks(model, [example]) for example in examples]
    for row in found.layers:
        v, block = moved[row.layer], mean[row.layer]
        size = row.vhv_positive + row.vhv_negative
        positive = _positive(block, v)
        assert row.parameters == len(v)
        assert row.distance == pytest.approx(float(v.norm()))
        assert row.vhv_positive == pytest.approx(positive, rel=0.01)
        assert abs(row.vhv_positive - positive) <= row.vhv_error + 1e-5 * size
        assert row.vhv_positive - row.vhv_negative == pytest.approx(float(v @ block @ v), abs=1e-6)
        h = [_positive(blocks[row.layer], v) for blocks in single]
        assert min(abs(row.vhv_positive_max - each) / each for each in h) < 0.01
        largest = float(torch.linalg.eigvalsh(block)[-1])
        assert abs(row.largest_eigenvalue - largest) <= row.eigenvalue_error + 1e-5 * largest


def test_traces_are_near_those_of_the_dense_blocks(tiny_model, tiny_examples, dense_blocks):
    model, examples = tiny_model("gpt2"), tiny_examples(3)
    found = _measure(model, _moved(model), examples, trace_vectors=64)
    for row in found.layers:
        expected = float(dense_blocks(model, examples)[row.layer].trace())
        assert abs(row.trace - expected) < 4 * row.trace_stderr


def test_density_has_the_moments_of_the_whole_hessian(tiny_model, tiny_examples, plain_losses):
    """A Gauss rule's first moments are those of the start; here against the dense Hessian's."""
    model, examples = tiny_model("gpt2"), tiny_examples(3)
    moved = _moved(model)
    density = _measure(model, moved, examples, density=True).density
    assert density is not None
    assert len(density.nodes) == DENSITY_STEPS
    assert density.weights.sum() == pytest.approx(1.0)
    values = _eigenvalues(model, examples, plain_losses)
    assert values[0] * 1.001 <= density.nodes[0]
    assert density.nodes[-1] == pytest.approx(float(values[-1]), rel=0.05)
    # one start of random signs: its mean is that of all eigenvalues but for chance
    chance = float((2 * (values**2).mean() / len(values)) ** 0.5)
    mean = float(density.weights @ density.nodes)
    assert abs(mean - float(values.mean())) < 4 * chance


def _eigenvalues(model, examples, plain_losses):
    model.set_attn_implementation("eager")
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def loss(flat):
        pieces = flat.split([w.numel() for w in weights.values()])
        own = {n: p.view_as(weights[n]) for n, p in zip(weights, pieces, strict=True)}
        return plain_losses(model, examples, own).mean()

    start = torch.cat([w.flatten() for w in weights.values()])
    return torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, start, vectorize=True))


def test_a_density_is_measured_where_it_is_asked_for(tiny_model, tiny_examples):
    model = tiny_model("gpt2")
    assert _measure(model, _moved(model), tiny_examples(2)).density is None


def test_a_layer_that_did_not_move_adds_zero(tiny_model, tiny_examples):
    model = tiny_model("gpt2")
    moved = _moved(model)
    moved["transformer.h.0"].zero_()
    found = {row.layer: row for row in _measure(model, moved, tiny_examples(3)).layers}
    still = found["transformer.h.0"]
    assert still.distance == 0.0
    assert still.vhv_positive == still.vhv_negative == still.vhv_error == 0.0
    assert still.vhv_positive_max == still.vhv_max_error == 0.0
    assert still.largest_eigenvalue > 0
    assert math.isfinite(still.trace)
    assert found["embeddings"].vhv_positive > 0


def test_a_model_that_did_not_move_at_all(tiny_model, tiny_examples):
    model = tiny_model("gpt2")
    moved = {layer: torch.zeros_like(v) for layer, v in _moved(model).items()}
    found = _measure(model, moved, tiny_examples(3))
    assert all(row.vhv_positive_max == 0.0 < row.largest_eigenvalue for row in found.layers)


def test_order_of_examples_does_not_matter(architecture, tiny_model, tiny_examples):
    model, examples = tiny_model(architecture), tiny_examples(4)
    moved = _moved(model)
    one, other = (_measure(model, moved, chosen) for chosen in (examples, examples[::-1]))
    for a, b in zip(one.layers, other.layers, strict=True):
        assert a.vhv_positive == pytest.approx(b.vhv_positive, rel=1e-3)
        assert a.vhv_positive_max == pytest.approx(b.vhv_positive_max, rel=1e-3)
        assert a.trace == pytest.approx(b.trace, rel=1e-3)


def test_two_runs_are_equal_and_the_model_is_left_alone(tiny_model, tiny_examples):
    model = tiny_model("gpt2")
    moved = _moved(model)
    model.train()
    weights = copy.deepcopy(model.state_dict())
    one, other = (_measure(model, moved, tiny_examples(3)) for _ in range(2))
    assert one == other
    assert model.training
    assert model.config._attn_implementation == "sdpa"
    assert all(torch.equal(weights[n], t) for n, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_flops_grow_with_the_work(tiny_model, tiny_examples):
    model, examples = tiny_model("gpt2"), tiny_examples(5)
    moved = _moved(model)
    little, much = (_measure(model, moved, examples, lanczos_steps=n) for n in (2, 5))
    forward = forward_flops(shape_of(model), examples)
    assert 40 * forward < little.flops < much.flops < 200 * forward


def test_no_examples(tiny_model):
    model = tiny_model("gpt2")
    with pytest.raises(DataError, match="sizes above 0"):
        _measure(model, _moved(model), [])


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


def test_a_diagonal_block_is_exact_with_one_probe():
    block = torch.diag(torch.tensor([1.0, -2.0, 5.0]))
    found = traces(lambda u: {n: block @ v for n, v in u.items()}, {"a": torch.empty(3)}, 1, 0)
    assert found["a"].value == 4.0
    assert math.isnan(found["a"].stderr)


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_trace_of_a_model(name, tiny_model, tiny_examples, dense_blocks, directions):
    model, examples = tiny_model(name), tiny_examples(3)
    with double_differentiable(model):
        hessian = BlockHessian(model, layers_of(model), examples)
        found = traces(hessian, directions(model), 60, seed=0)
    for layer, block in dense_blocks(model, examples).items():
        expected = float(block.trace())
        assert abs(found[layer].value - expected) <= 4 * found[layer].stderr, layer
        variance = 2 * (block.square().sum() - block.diagonal().square().sum())
        assert found[layer].stderr == pytest.approx(math.sqrt(variance / 60), rel=0.4), layer


def test_probes_are_seeded_signs():
    first = rademacher(torch.empty(200), 0, "trace", "a", 0)
    assert set(first.tolist()) == {-1.0, 1.0}
    assert torch.equal(first, rademacher(torch.empty(200), 0, "trace", "a", 0))
    assert not torch.equal(first, rademacher(torch.empty(200), 0, "trace", "a", 1))
    assert not torch.equal(first, rademacher(torch.empty(200), 1, "trace", "a", 0))
