"""The dense Hessian of a tiny model, block by block."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lensllm.hessian.curvature import layers_of


@pytest.fixture
def dense_blocks(plain_losses) -> Callable[..., dict[str, torch.Tensor]]:
    """``dense_blocks(model, examples)``: the mean loss's Hessian of each layer, (p, p) each."""

    def blocks(model: Any, examples: list[Any]) -> dict[str, torch.Tensor]:
        model.set_attn_implementation("eager")  # the fused kernel has no second derivative
        weights = {name: p.detach() for name, p in model.named_parameters()}
        return {n: _block(model, examples, weights, names) for n, names in layers_of(model).items()}

    def _block(
        model: Any, examples: list[Any], weights: dict[str, torch.Tensor], names: list[str]
    ) -> torch.Tensor:
        shapes = [weights[n].shape for n in names]

        def loss(flat: torch.Tensor) -> torch.Tensor:
            pieces = flat.split([s.numel() for s in shapes])
            own = {n: p.view(s) for n, p, s in zip(names, pieces, shapes, strict=True)}
            return plain_losses(model, examples, weights | own).mean()

        start = torch.cat([weights[n].flatten() for n in names])
        # Not torch.func.hessian: forward over reverse is wrong for LayerNorm's weights.
        return torch.autograd.functional.hessian(loss, start, vectorize=True)

    return blocks


@pytest.fixture
def directions() -> Callable[..., dict[str, torch.Tensor]]:
    """``directions(model, scale=1.0, seed=1)``: one random flat vector per layer."""

    def draw(model: Any, scale: float = 1.0, seed: int = 1) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        named = dict(model.named_parameters())
        return {
            layer: scale
            * torch.randn(
                sum(named[n].numel() for n in names), generator=generator, dtype=torch.float64
            )
            for layer, names in layers_of(model).items()
        }

    return draw
