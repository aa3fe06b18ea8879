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
from numpy.typing import NDArray

from lensllm.core.errors import DataError, ModelError
from lensllm.models.batch import Example
from lensllm.ntk import choice, damage, sketch
from lensllm.ntk.choice import Choice, Wanted
from lensllm.ntk.contraction import NotFinite
from lensllm.spectra.spectrum import Spectrum, spectrum

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Kernel:
    """The residual kernel of one model on n probes."""

    matrix: Array  # (n, n) K, symmetric, positive semi-definite
    residual_norms: Array  # (n,) ρ
    spectrum: Spectrum  # of K/n
    parameters: int  # trainable weights; tied ones count once
    choice: Choice  # how it was computed, and why so
    relative_error: float  # expected of K in the Frobenius norm; 0 for exact products


def residual_kernel(
    model: Any,
    probes: Sequence[Example],
    *,
    method: Wanted = "auto",
    memory_bytes: int = choice.MEMORY_BYTES,
) -> Kernel:
    """The kernel over all trainable weights; ``lensllm.ntk.choice`` says what it costs.

    A tied weight is one parameter: its uses add to one gradient. A probe that is predicted with
    certainty (ρ = 0) has a row of zeros. Weights in bfloat16 or float16 are summed in float32.

    Args:
        model: transformers model; evaluated without dropout, on the device it is on.
        probes: training examples, never test ones.
        method: ``exact`` or ``sketch``; ``auto`` sketches where exact products cost too much.
        memory_bytes: what the computation may take beside the model.

    Raises:
        DataError: no probe, or one without target token or with tokens that the model has not.
        ModelError: no weight is trainable, the loss has no gradient or none that is finite, every
            gradient is zero, or the memory holds not even one probe.
    """
    _check(model, probes)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.enable_grad():
            chosen, gram, norms = _products(model, probes, method, memory_bytes)
    finally:
        for module, training in modes.items():
            module.training = training
    matrix = _normalised(gram.numpy(), norms.numpy())
    if not matrix.any():
        raise ModelError(
            "the kernel is zero: no trainable weight moves the loss of any probe; "
            "check that the checkpoint is a trained one and not frozen"
        )
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    error = sketch.expected_error(matrix, parameters) if chosen.method == "sketch" else 0.0
    found = spectrum(matrix, norms.numpy())
    return Kernel(matrix, norms.numpy(), found, parameters, chosen, error)


def _check(model: Any, probes: Sequence[Example]) -> None:
    if not probes:
        raise DataError("the kernel has no probes; set kernel.probes to at least 4")
    vocabulary = len(model.get_input_embeddings().weight)
    for i, probe in enumerate(probes):
        if not probe.completion:
            raise DataError(f"kernel probe {i} has no target token; drop its training example")
        if not probe.prompt and not model.config.is_encoder_decoder:
            raise DataError(
                f"kernel probe {i} has no prompt, from which its first target token could be "
                "predicted; drop its training example"
            )
        ids = (*probe.prompt, *probe.completion)
        if not 0 <= min(ids) <= max(ids) < vocabulary:
            raise DataError(
                f"kernel probe {i} has token {max(ids) if min(ids) >= 0 else min(ids)}, and the "
                f"model knows 0 to {vocabulary - 1}; use the checkpoint's own tokenizer"
            )


def _products(
    model: Any, probes: Sequence[Example], method: Wanted, memory_bytes: int
) -> tuple[Choice, torch.Tensor, torch.Tensor]:
    """``choice.products``; a gradient that is not finite names the layer it comes from."""
    try:
        return choice.products(model, probes, method, memory_bytes)
    except NotFinite as error:
        unexplained = str(error)
    # out of the handler, which would keep the factors in memory
    raise ModelError(damage.culprit(model, probes) or unexplained)


def _normalised(gram: Array, norms: Array) -> Array:
    scale = np.outer(norms, norms)
    return np.divide(gram, scale, out=np.zeros_like(gram), where=scale > 0)
