"""Parts that autograd does not see are found; every family's products are symmetric elsewhere."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lensllm.core.errors import ModelError
from lensllm.hessian.differentiable import double_differentiable
from lensllm.hessian.hvp import BlockHessian
from lensllm.hessian.layers import layers_of
from lensllm.hessian.symmetry import require_symmetry
from tests.lensllm import families


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
