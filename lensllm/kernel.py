"""The neural tangent kernel of a pretrained model, compressed exactly onto its residual.

With probes i = 1 … n and their target tokens T_i (Zeng et al. 2025, eqs. 8–9, for outputs of
tokens × vocabulary):

- residual r_i = (softmax(f) − onehot(y)) / √|T_i| over the probe's target tokens, ρ_i = ‖r_i‖;
- g_i = J_iᵀ r_i / √|T_i| = ∇ ℓ_i, the gradient of the probe's mean loss in nats per token;
- K_ij = ⟨g_i, g_j⟩ / (ρ_i ρ_j) = Pᵀ Θ P with P = blockdiag(r_i / ρ_i).

The residual is Pρ and lies in the span of P, so F(0) = Σ ρ_i² and F′(0) are exact. Under gradient
flow on L = (1/n) Σ ℓ_i the loss falls at the rate dL/dτ = −(1/n²) ρᵀKρ = F′(0) / (2n).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lensllm.errors import DataError, ModelError
from lensllm.models.batch import Example, collate, target_logits
from lensllm.spectrum import Spectrum, spectrum

Array = NDArray[np.float64]

# Columns multiplied at once. Float32 products this short, summed in float64, leave K within 1e-6
# of its norm, and the copies stay in a core's cache.
_COLUMNS = 8192


@dataclass(frozen=True)
class Kernel:
    """The residual kernel of one model on n probes."""

    matrix: Array  # (n, n) K, symmetric, positive semi-definite
    residual_norms: Array  # (n,) ρ
    spectrum: Spectrum  # of K/n
    parameters: int  # trainable weights; tied ones count once


def residual_kernel(
    model: Any, probes: Sequence[Example], *, memory_bytes: int = 8 * 2**30
) -> Kernel:
    """The exact kernel from one gradient per probe, padded with nothing.

    Costs n forward and backward passes of one example and n · parameters · (4 or 8) bytes. A tied
    weight is one parameter: both of its uses add to one gradient. A probe that is predicted with
    certainty (ρ = 0) has a row of zeros.

    Args:
        model: transformers model; evaluated without dropout, on the device it is on.
        probes: training examples, never test ones.
        memory_bytes: what the gradients may take.

    Raises:
        DataError: no probe, or a probe without target token.
        ModelError: the gradients do not fit, or one is not finite.
    """
    if not probes:
        raise DataError("the kernel has no probes; set kernel.probes to at least 4")
    for i, probe in enumerate(probes):
        if not probe.completion:
            raise DataError(f"kernel probe {i} has no target token; drop its training example")
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = _allocate(model, len(probes), sum(p.numel() for p in named.values()), memory_bytes)
    norms = np.empty(len(probes))
    was_training = model.training
    model.eval()
    try:
        for i, probe in enumerate(probes):
            norms[i] = _gradient(model, probe, named, gradients[i])
    finally:
        model.train(was_training)
    matrix = _normalised(_gram(gradients), norms)
    return Kernel(matrix, norms, spectrum(matrix, norms), gradients.shape[1])


def _allocate(model: Any, probes: int, parameters: int, memory_bytes: int) -> Tensor:
    """Room for the gradients, shape (probes, parameters)."""
    dtype = torch.promote_types(model.dtype, torch.float32)
    needed = probes * parameters * dtype.itemsize
    if needed > memory_bytes:
        raise ModelError(
            f"the kernel needs {needed / 2**30:.1f} GiB for the gradients of {parameters:,} "
            f"weights on {probes} probes, more than the {memory_bytes / 2**30:.1f} GiB allowed; "
            f"lower kernel.probes to {memory_bytes // (parameters * dtype.itemsize)} or switch "
            "kernel.enabled off"
        )
    return torch.empty(probes, parameters, dtype=dtype, device=model.device)


def _gradient(model: Any, probe: Example, named: dict[str, Tensor], row: Tensor) -> float:
    """Write ∇ℓ of one probe into ``row``, shape (parameters,); return its residual norm ρ."""
    batch = collate([probe], model.config).to(row.device)
    logits = target_logits(model, batch).to(row.dtype)
    loss = F.cross_entropy(logits, batch.targets)
    parts = torch.autograd.grad(loss, list(named.values()), materialize_grads=True)
    torch.cat([part.flatten() for part in parts], out=row)
    if not row.sum().isfinite():  # cheaper than asking every entry
        bad = next(n for n, g in zip(named, parts, strict=True) if not g.isfinite().all())
        raise ModelError(
            f"the gradient of {bad} is not finite on a kernel probe; the checkpoint is damaged"
        )
    residual = logits.detach().softmax(-1)
    residual -= F.one_hot(batch.targets, residual.shape[-1])
    return float(residual.square().sum(-1).mean().sqrt())


def _gram(gradients: Tensor) -> Array:
    """All inner products of the rows, (n, n), summed in float64."""
    total = torch.zeros(len(gradients), len(gradients), dtype=torch.float64)
    for block in torch.split(gradients, _COLUMNS, dim=1):
        total += (block @ block.T).cpu()
    return total.numpy()


def _normalised(gram: Array, norms: Array) -> Array:
    scale = np.outer(norms, norms)
    return np.divide(gram, scale, out=np.zeros_like(gram), where=scale > 0)
