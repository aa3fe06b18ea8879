"""Hutchinson's estimate against dense traces."""

import math

import pytest
import torch

from lensllm.hessian.differentiable import double_differentiable
from lensllm.hessian.hvp import BlockHessian
from lensllm.hessian.layers import layers_of
from lensllm.hessian.trace import rademacher, traces


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
