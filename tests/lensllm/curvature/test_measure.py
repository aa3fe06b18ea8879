"""The bound's terms against dense blocks and by hand."""

import copy
import math

import pytest
import torch

from lensllm.curvature.layers import layers_of
from lensllm.curvature.measure import bound_terms, losses, measure_curvature
from lensllm.errors import DataError, ModelError
from lensllm.models.cost import forward_flops, shape_of


def _tuned(model, scale=0.05, seed=3):
    """``model`` a little away from where it was, and where it was."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p += scale * torch.randn(p.shape, generator=generator, dtype=torch.float64)
    return model, before


def _measure(model, before, examples, **options):
    arguments = {"subset_size": 100, "test_nats_per_token": 3.0, "trace_probes": 2} | options
    return measure_curvature(model, before, examples, **arguments)


def _positive(block, v):
    values, vectors = torch.linalg.eigh(block)
    return float((vectors.T @ v) ** 2 @ values.clamp(min=0))


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_layers_are_those_of_the_dense_blocks(name, tiny_model, tiny_examples, dense_blocks):
    model, before = _tuned(tiny_model(name))
    examples = tiny_examples(3)
    found = _measure(model, before, examples, lanczos_steps=60)
    mean = dense_blocks(model, examples)
    single = [dense_blocks(model, [example]) for example in examples]
    named = dict(model.named_parameters())
    for row in found.layers:
        names = layers_of(model)[row.layer]
        v = torch.cat([(named[n].detach() - before[n]).flatten() for n in names])
        assert row.parameters == len(v)
        assert row.distance == pytest.approx(float(v.norm()))
        assert row.vhv_positive == pytest.approx(_positive(mean[row.layer], v), rel=0.05)
        h = max(_positive(blocks[row.layer], v) for blocks in single)
        assert row.vhv_positive_max == pytest.approx(h, rel=0.05)
        largest = float(torch.linalg.eigvalsh(mean[row.layer])[-1])
        assert row.largest_eigenvalue == pytest.approx(largest, rel=0.05)
        form = float(v @ mean[row.layer] @ v)
        assert row.vhv_positive - row.vhv_negative == pytest.approx(form, abs=1e-6)


def test_terms_of_the_bound(tiny_model, tiny_examples, plain_losses):
    model, before = _tuned(tiny_model("gpt2"))
    examples = tiny_examples(5)
    found = _measure(model, before, examples, epsilon=0.2)
    seen = plain_losses(model, examples).detach()
    assert found.loss_bound == pytest.approx(float(seen.max()))
    assert found.train_nats_per_token == pytest.approx(float(seen.mean()))
    assert found.train_term == pytest.approx(1.2 * float(seen.mean()))
    roots = sum(math.sqrt(float(seen.max()) * row.vhv_positive_max) for row in found.layers)
    assert found.curvature_term == pytest.approx(1.2 / 10 * roots)
    assert found.bound == found.train_term + found.curvature_term
    assert found.gap == pytest.approx(3.0 - float(seen.mean()))
    assert found.examples == 5


def test_terms_by_hand():
    terms = bound_terms(2.0, 4.0, [1.0, 9.0, 0.0], subset_size=16, epsilon=0.5)
    assert terms.train_term == 3.0
    assert terms.curvature_term == 1.5 / 4 * (2 + 6)
    assert terms.bound == 6.0


def test_a_layer_that_did_not_move_adds_zero(tiny_model, tiny_examples):
    model, before = _tuned(tiny_model("gpt2"))
    before |= {
        name: p.detach().clone()
        for name, p in model.named_parameters()
        if name.startswith("transformer.h.0")
    }
    found = {row.layer: row for row in _measure(model, before, tiny_examples(3)).layers}
    still = found["transformer.h.0"]
    assert still.distance == 0.0
    assert still.vhv_positive == still.vhv_negative == still.vhv_error == 0.0
    assert still.vhv_positive_max == 0.0
    assert still.largest_eigenvalue > 0
    assert math.isfinite(still.trace)
    assert found["embeddings"].vhv_positive > 0


def test_an_unmoved_model_has_no_curvature_term(tiny_model, tiny_examples):
    model = tiny_model("gpt2")
    found = _measure(model, model.state_dict(), tiny_examples(3))
    assert found.curvature_term == 0.0
    assert found.bound == found.train_term


def test_order_of_examples_does_not_matter(architecture, tiny_model, tiny_examples):
    model, before = _tuned(tiny_model(architecture))
    examples = tiny_examples(4)
    one = _measure(model, before, examples)
    other = _measure(model, before, examples[::-1])
    for a, b in zip(one.layers, other.layers, strict=True):
        assert a.vhv_positive == pytest.approx(b.vhv_positive, rel=1e-3)
        assert a.vhv_positive_max == pytest.approx(b.vhv_positive_max, rel=1e-3)
        assert a.trace == pytest.approx(b.trace, rel=1e-3)


def test_two_runs_are_equal_and_the_model_is_left_alone(tiny_model, tiny_examples):
    model, before = _tuned(tiny_model("gpt2"))
    model.train()
    weights = copy.deepcopy(model.state_dict())
    assert _measure(model, before, tiny_examples(3)) == _measure(model, before, tiny_examples(3))
    assert model.training
    assert model.config._attn_implementation == "sdpa"
    assert all(torch.equal(weights[n], t) for n, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_flops_grow_with_the_work(tiny_model, tiny_examples):
    model, before = _tuned(tiny_model("gpt2"))
    little, much = (
        _measure(model, before, tiny_examples(5), lanczos_steps=n, max_examples_for_h=n)
        for n in (2, 5)
    )
    forward = forward_flops(shape_of(model), tiny_examples(5))
    assert 40 * forward < little.flops < much.flops < 200 * forward


def test_losses_of_all_examples(tiny_model, tiny_examples, plain_losses):
    model, examples = tiny_model("t5"), tiny_examples(6)
    found = losses(model, examples)
    expected = plain_losses(model, sorted(examples, key=len)).detach()
    torch.testing.assert_close(found, expected)


def test_what_the_user_can_mend(tiny_model, tiny_examples):
    model, before = _tuned(tiny_model("gpt2"))
    with pytest.raises(DataError, match="sizes above 0"):
        _measure(model, before, tiny_examples(2), subset_size=0)
    with pytest.raises(DataError, match="sizes above 0"):
        _measure(model, before, [])
    del before["transformer.wte.weight"]
    with pytest.raises(ModelError, match=r"no transformer\.wte\.weight"):
        _measure(model, before, tiny_examples(2))
