"""Whether products are those of a Hessian: what autograd does not see breaks their symmetry."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lensllm.core import seeds
from lensllm.core.errors import ModelError
from lensllm.hessian.hvp import BlockHessian
from lensllm.hessian.lanczos import inner

# Float32 leaves less than 3e-6, on 35 families of architectures and on trained models alike.
_ROUNDING = 1e-3


def require_symmetry(hessian: BlockHessian, seed: int = 0) -> None:
    """Raise ModelError if ⟨u, Hz⟩ and ⟨z, Hu⟩ differ, for random u and z: two whole products.

    A fused kernel computes its gradient outside autograd, which then takes it for a constant, and
    products are wrong without an error. A single example shows it. What is left out of an
    elementwise function's derivative alone is itself symmetric, and is not seen.
    """
    u, z = (_normal(hessian, seed, number) for number in range(2))
    image_u, image_z = hessian.whole(u), hessian.whole(z)
    # ⟨u, x⟩ is of the size of ‖x‖ for a normal u
    size = max(_inner(image, image) for image in (image_u, image_z)) ** 0.5
    difference = abs(_inner(u, image_z) - _inner(z, image_u))
    if difference > _ROUNDING * size:
        raise ModelError(
            f"the model's second derivative is not symmetric, by {difference / size:.1%}: one of "
            "its layers computes its gradient outside autograd, as fused kernels do; "
            "uninstall the package that they come from (such as mamba_ssm)"
        )


def _normal(hessian: BlockHessian, seed: int, number: int) -> dict[str, Tensor]:
    return {
        layer: torch.from_numpy(
            seeds.generator(seed, "symmetry", layer, number).standard_normal(
                sum(weight.numel() for weight in weights), dtype=np.float32
            )
        ).to(weights[0])
        for layer, weights in hessian.parameters.items()
    }


def _inner(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return sum(inner(a[layer], b[layer]) for layer in a)
