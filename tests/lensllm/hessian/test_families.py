"""Hessian-vector products of every family of architectures against what does not need them.

In their own arithmetic most families round to float32 within, and differences of gradients would
show little else. Whatever is compared with differences is therefore computed in float64 throughout,
with steps so small that no ReLU bends and no router decides otherwise; what the families' own
arithmetic does to a product is a test of its own.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lensllm.hessian.curvature import layers_of
from lensllm.hessian.differentiable import double_differentiable
from lensllm.hessian.hvp import BlockHessian, require_symmetry
from lensllm.models.batch import Example
from tests.lensllm import families
from tests.lensllm.conftest import plain_logits

# Of central differences: rounding 1e-16 / 1e-6, and what the step squared leaves.
STEP, TOLERANCE = 1e-6, 1e-6

# What torch.func cannot map: autograd functions of their own, and routers that convert weights.
UNMAPPED = ("bloom", "llama-fused", "switch", "switch-two", "switch-experts")

ByWeight = dict[str, Tensor]


@dataclass
class Case:
    """A model, examples, one vector for every layer, and products with it in float64."""

    model: Any
    examples: list[Example] = field(default_factory=lambda: families.probes(2))

    @cached_property
    def layers(self) -> dict[str, list[str]]:
        return layers_of(self.model)

    @cached_property
    def weights(self) -> ByWeight:
        named = dict(self.model.named_parameters())
        return {name: named[name] for names in self.layers.values() for name in names}

    @cached_property
    def vector(self) -> ByWeight:
        generator = torch.Generator().manual_seed(1)
        return {
            name: torch.randn(w.shape, generator=generator, dtype=torch.float64)
            for name, w in self.weights.items()
        }

    def flat(self, by_weight: ByWeight) -> dict[str, Tensor]:
        return {
            layer: torch.cat([by_weight[name].flatten() for name in names])
            for layer, names in self.layers.items()
        }

    def named(self, flat: Mapping[str, Tensor]) -> ByWeight:
        found: ByWeight = {}
        for layer, names in self.layers.items():
            pieces = flat[layer].split([self.weights[name].numel() for name in names])
            found |= {n: p.view_as(self.weights[n]) for n, p in zip(names, pieces, strict=True)}
        return found

    def products(
        self, examples: list[Example] | None = None, **options: Any
    ) -> tuple[ByWeight, ByWeight]:
        """With the blocks, and with the whole Hessian."""
        with double_differentiable(self.model):
            hessian = BlockHessian(self.model, self.layers, examples or self.examples, **options)
            vectors = {n: v.to(self.model.dtype) for n, v in self.flat(self.vector).items()}
            return self.named(hessian(vectors)), self.named(hessian.whole(vectors))

    @cached_property
    def in_float64(self) -> tuple[ByWeight, ByWeight]:
        with families.in_float64(self.model):
            return self.products()

    def differences(self, names: list[str]) -> ByWeight:
        """Of the gradient of the weights ``names``, along their vectors."""
        with families.in_float64(self.model):
            ahead, behind = (self.at(step, names, self.gradient) for step in (STEP, -STEP))
        return {name: (ahead[name] - behind[name]) / (2 * STEP) for name in names}

    def at(self, step: float, names: list[str], compute: Callable[[list[str]], Any]) -> Any:
        """``compute`` where the weights ``names`` are a step further."""
        before = {name: self.weights[name].detach().clone() for name in names}
        with torch.no_grad():
            for name in names:
                self.weights[name] += step * self.vector[name]
        found = compute(names)
        with torch.no_grad():
            for name in names:
                self.weights[name].copy_(before[name])
        return found

    def gradient(self, names: list[str]) -> ByWeight:
        """Of the mean loss: one plain call and one backward pass an example."""
        weights = {name: self.weights[name] for name in names}
        total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for loss in self.losses():
            found = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
            for name, gradient in zip(names, found, strict=True):
                total[name] += gradient / len(self.examples)
        return total

    def losses(self, weights: ByWeight | None = None) -> Iterator[Tensor]:
        for example in self.examples:
            (logits,) = plain_logits(self.model, [example], weights)
            yield F.cross_entropy(logits, torch.tensor(example.completion))


def _assert_near(found: ByWeight, expected: ByWeight, tolerance: float) -> None:
    """Weight by weight: an error in a faint one would not be seen among all."""
    whole = torch.cat([t.flatten() for t in expected.values()]).norm()
    for name, wanted in expected.items():
        error = (found[name] - wanted).norm()
        assert error <= tolerance * (wanted.norm() + 0.01 * whole), name


def _without_padding(model: Any) -> Any:
    """Autograd leaves the padding's row out of a table's gradient, which is then of no function."""
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.padding_idx = None
    return model


@pytest.fixture(scope="module", params=families.NAMES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def case(family: str) -> Case:
    return Case(families.build(family))


@pytest.fixture(scope="module")
def plain(family: str) -> Case:
    """The same, to compute with in other ways."""
    return Case(_without_padding(families.build(family)))


def test_blocks_are_differences_of_gradients(case, plain):
    blocks, _ = case.in_float64
    for names in case.layers.values():
        _assert_near(blocks, plain.differences(names), TOLERANCE)


def test_whole_products_are_differences_of_gradients(case, plain):
    _, whole = case.in_float64
    _assert_near(whole, plain.differences(list(case.weights)), TOLERANCE)


def test_whole_products_bend_the_loss(case):
    """No gradient at all, of the model as it comes: zᵀHz is the second difference along z."""
    _, whole = case.in_float64
    names, step = list(case.weights), 1e-5

    def loss(_: list[str]) -> Tensor:
        with torch.no_grad():
            return torch.stack(list(case.losses())).mean()

    with families.in_float64(case.model):
        behind, here, ahead = (case.at(step * i, names, loss) for i in (-1, 0, 1))
    found = sum((case.vector[name] * whole[name]).sum() for name in names)
    torch.testing.assert_close(found, (ahead - 2 * here + behind) / step**2, rtol=2e-3, atol=1e-3)


def test_whole_products_are_those_of_forward_mode(family, case, plain):
    """Forward over reverse, another way to differentiate, to the last digits."""
    if family in UNMAPPED:
        pytest.skip("torch.func cannot map it")
    weights = {name: weight.detach() for name, weight in plain.weights.items()}

    def loss(weights: ByWeight) -> Tensor:
        return torch.stack(list(plain.losses(weights))).mean()

    _, whole = case.in_float64
    # torch.func.jacrev in place of grad is wrong for the weights of LayerNorm
    with double_differentiable(plain.model), families.in_float64(plain.model):
        _, expected = torch.func.jvp(torch.func.grad(loss), (weights,), (plain.vector,))
    _assert_near(whole, expected, 1e-11)


def test_whole_products_are_those_of_another_library(family, case, plain):
    """hessian-eigenthings averages over batches: every example is one."""
    operators = pytest.importorskip("hessian_eigenthings.operators")
    if family.startswith("switch"):
        pytest.skip("it does not allow weights that are not used: experts nobody chose")

    def loss(model: Any, example: Example) -> Tensor:
        (logits,) = plain_logits(model, [example])
        return F.cross_entropy(logits, torch.tensor(example.completion))

    _, whole = case.in_float64
    names = [name for name, _ in plain.model.named_parameters() if name in plain.weights]
    with double_differentiable(plain.model), families.in_float64(plain.model):
        operator = operators.HessianOperator(
            plain.model, plain.examples, loss, param_filter=lambda name, _: name in names
        )
        found = operator.matvec(torch.cat([plain.vector[name].flatten() for name in names]))
    pieces = found.split([plain.weights[name].numel() for name in names])
    expected = {n: p.view_as(plain.weights[n]) for n, p in zip(names, pieces, strict=True)}
    _assert_near(whole, expected, 1e-11)


def test_neither_batches_nor_padding_nor_order_matter(case):
    """The longer example after the shorter and in its batch, or before it and alone."""
    with families.in_float64(case.model):
        alone = case.products(case.examples[::-1], memory_bytes=0)
    for products, expected in zip(alone, case.in_float64, strict=True):
        _assert_near(products, expected, 1e-11)


def test_the_familys_own_arithmetic_costs_little(case):
    """Norms, softmax and the like in float32, where the weights are float64."""
    for products, expected in zip(case.products(), case.in_float64, strict=True):
        _assert_near(products, expected, 1e-4)


def test_float32_products_are_symmetric(family):
    model = families.build(family).float()
    with double_differentiable(model):
        require_symmetry(BlockHessian(model, layers_of(model), families.probes(2)[:1]))


def test_narrow_weights_are_what_they_are_in_float32(family):
    narrow = Case(families.build(family, scale=0.15).bfloat16(), families.probes(2))
    wide = Case(copy.deepcopy(narrow.model).float(), narrow.examples)
    for products, expected in zip(narrow.products(), wide.products(), strict=True):
        for name, wanted in expected.items():
            assert torch.equal(products[name], wanted), name


def test_the_model_is_left_as_it_was(family):
    model = families.build(family).bfloat16().train()
    if model.supports_gradient_checkpointing:
        model.gradient_checkpointing_enable()
    before, weights = _state(model), [weight.data.clone() for weight in model.parameters()]
    with suppress(InterruptedError), double_differentiable(model):
        BlockHessian(model, layers_of(model), families.probes(2))
        assert before != _state(model)
        raise InterruptedError
    assert before == _state(model)
    assert all(map(torch.equal, weights, model.parameters()))


def _state(model: Any) -> list[Any]:
    """All that an examination may touch, but for the weights' values."""
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    return [
        [(name, id(t), t.data_ptr(), t.dtype, t.requires_grad, t.grad) for name, t in tensors],
        [(c._attn_implementation, c._experts_implementation) for c in configs.values()],
        [
            # Switch's routers note in input_dtype what they were last called with
            {n: v for n, v in vars(module).items() if n[0] != "_" and n != "input_dtype"}
            for module in model.modules()
        ],
    ]
