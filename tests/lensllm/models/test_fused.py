"""The fused activation is the one that was there, as far as curvature looks: twice differentiated."""

import copy

import pytest
import torch
from transformers.activations import NewGELUActivation

from lensllm.models.batch import collate, token_losses
from lensllm.models.load import fuse_activations
from tests.lensllm import families

NAMES = ["gpt2", "gpt-neo", "mt5"]


def written_out(model: torch.nn.Module) -> int:
    return sum(isinstance(module, NewGELUActivation) for module in model.modules())


def loss_gradient_and_curvature(model: torch.nn.Module) -> tuple[torch.Tensor, ...]:
    """Of the mean loss; the curvature as a product with a fixed direction."""
    parameters = list(model.parameters())
    loss = token_losses(model, collate(families.probes(), model.config)).mean()
    gradient = torch.autograd.grad(loss, parameters, create_graph=True)
    draw = torch.Generator().manual_seed(0)
    slope = sum((g * torch.randn(g.shape, generator=draw, dtype=g.dtype)).sum() for g in gradient)
    product = torch.autograd.grad(slope, parameters)
    return loss, *gradient, *product


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_same_function(name: str):
    before = families.build(name, attention="eager").double().eval()
    after = fuse_activations(copy.deepcopy(before))
    for one, other in zip(
        loss_gradient_and_curvature(after), loss_gradient_and_curvature(before), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_none_is_left_written_out():
    model = families.build("gpt2")
    assert written_out(model) > 0
    assert written_out(fuse_activations(model)) == 0


def test_another_activation_is_left_alone():
    model = families.build("llama")
    before = [type(module) for module in model.modules()]
    assert [type(module) for module in fuse_activations(model).modules()] == before
