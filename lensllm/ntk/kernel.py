"""The neural tangent kernel of a pretrained model, compressed exactly onto its residual.

With examples i = 1 … n and their target tokens T_i (Zeng et al. 2025, eqs. 8–9, for outputs of
tokens × vocabulary):

- residual r_i = (softmax(f) − onehot(y)) / √|T_i| over the example's target tokens, ρ_i = ‖r_i‖;
- g_i = J_iᵀ r_i / √|T_i| = ∇ ℓ_i, the gradient of the example's mean loss in nats per token;
- K_ij = ⟨g_i, g_j⟩ / (ρ_i ρ_j) = Pᵀ Θ P with P = blockdiag(r_i / ρ_i).

The residual is Pρ and lies in the span of P, so F(0) = Σ ρ_i² and F′(0) are exact. Under gradient
flow on L = (1/n) Σ ℓ_i the loss falls at the rate dL/dτ = −(1/n²) ρᵀKρ = F′(0) / (2n).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lensllm.core.errors import DataError, ModelError
from lensllm.models.batch import Example
from lensllm.models.load import weight_not_finite
from lensllm.ntk.factors import single_gradients
from lensllm.ntk.method import MEMORY_BYTES, Computation, Wanted, products
from lensllm.ntk.products import NotFinite, expected_error
from lensllm.spectra.spectrum import Spectrum, spectrum

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Kernel:
    """The residual kernel of one model on n examples."""

    matrix: Array  # (n, n) K, symmetric, positive semi-definite
    residual_norms: Array  # (n,) ρ
    spectrum: Spectrum  # spectrum of K/n
    parameters: int  # trainable weights; tied ones count once
    computation: Computation
    relative_error: float  # expected error of K in the Frobenius norm; 0 for exact products


def residual_kernel(
    model: Any,
    examples: Sequence[Example],
    *,
    method: Wanted = "auto",
    memory_bytes: int = MEMORY_BYTES,
) -> Kernel:
    """Compute the kernel over all trainable weights; ``lensllm.ntk.method`` says what it costs.

    A tied weight is one parameter: its uses add to one gradient. An example that is predicted with
    certainty (ρ = 0) has a row of zeros. Weights in bfloat16 or float16 are summed in float32.

    Args:
        model: transformers model; evaluated without dropout, on the device it is on.
        examples: n training examples, never test ones.
        method: ``exact`` or ``sketch``; ``auto`` sketches where exact products cost too much.
        memory_bytes: limit of the computation, the model not counted.

    Raises:
        DataError: no example, one without target token, or tokens outside the vocabulary.
        ModelError: no weight is trainable, the loss has no finite gradient, every gradient is
            zero, or the memory does not hold one example.
    """
    _check(model, examples)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.enable_grad():
            chosen, gram, norms = _products(model, examples, method, memory_bytes)
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
    error = expected_error(matrix, parameters) if chosen.method == "sketch" else 0.0
    found = spectrum(matrix, norms.numpy())
    return Kernel(matrix, norms.numpy(), found, parameters, chosen, error)


def _check(model: Any, examples: Sequence[Example]) -> None:
    if not examples:
        raise DataError("the kernel has no probes; set kernel.probes to at least 4")
    vocabulary = len(model.get_input_embeddings().weight)
    for i, example in enumerate(examples):
        if not example.completion:
            raise DataError(f"kernel probe {i} has no target token; drop its training example")
        if not example.prompt and not model.config.is_encoder_decoder:
            raise DataError(
                f"kernel probe {i} has no prompt, from which its first target token could be "
                "predicted; drop its training example"
            )
        ids = (*example.prompt, *example.completion)
        if not 0 <= min(ids) <= max(ids) < vocabulary:
            raise DataError(
                f"kernel probe {i} has token {max(ids) if min(ids) >= 0 else min(ids)}, and the "
                f"model knows 0 to {vocabulary - 1}; use the checkpoint's own tokenizer"
            )


def _products(
    model: Any, examples: Sequence[Example], method: Wanted, memory_bytes: int
) -> tuple[Computation, torch.Tensor, torch.Tensor]:
    """``products``, with an error that names the layer where a gradient stops being finite."""
    try:
        return products(model, examples, method, memory_bytes)
    except NotFinite as error:
        unexplained = str(error)
    # Outside the handler, which would keep the factors in memory.
    raise ModelError(not_finite_part(model, examples) or unexplained)


def _normalised(gram: Array, norms: Array) -> Array:
    scale = np.outer(norms, norms)
    return np.divide(gram, scale, out=np.zeros_like(gram), where=scale > 0)


def not_finite_part(model: Any, examples: Sequence[Example]) -> str:
    """A sentence on the first part that is not finite; empty if all parts are.

    A NaN or infinity flows backward to the embedding from whatever layer it arose in, so the first
    weight whose gradient has one says nothing. Weights, outputs and gradients are checked in turn.
    """
    if name := weight_not_finite(model):
        return f"the weight {name} is not finite; the checkpoint is damaged"
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    dtype = str(model.dtype).removeprefix("torch.")
    for example in examples:
        with _watched(model) as observed:
            uses, _ = single_gradients(model, weights, [example])
        if observed.not_finite:
            return (
                f"the output of {observed.not_finite[0]} is not finite on a kernel probe, though "
                f"every weight is: it overflows {dtype} or divides by zero; leave this candidate "
                "out"
            )
        bad = [name for name, found in uses.items() if not _finite(*found[0].tensors)]
        if bad:
            nearest = max(bad, key=lambda name: observed.order.get(name.rpartition(".")[0], -1))
            return (
                f"on a kernel probe the gradient is not finite from {nearest} on downwards, though "
                "every weight and output is: the backward pass of what comes after it overflows "
                f"{dtype} or is wrong; leave this candidate out"
            )
    return ""


@dataclass
class _ForwardPass:
    """Modules seen in a forward pass."""

    not_finite: list[str] = field(default_factory=list)  # with such an output, innermost first
    order: dict[str, int] = field(default_factory=dict)  # larger nearer to the loss


@contextmanager
def _watched(model: nn.Module) -> Iterator[_ForwardPass]:
    observed = _ForwardPass()

    def check_output(name: str, out: Any) -> None:
        observed.order[name] = len(observed.order)
        parts = out if isinstance(out, tuple | list) else (out,)
        if not _finite(*(part for part in parts if isinstance(part, Tensor))):
            observed.not_finite.append(name)

    handles = [
        module.register_forward_hook(lambda _, __, out, name=name: check_output(name, out))
        for name, module in model.named_modules()
    ]
    try:
        yield observed
    finally:
        for handle in handles:
            handle.remove()


def _finite(*tensors: Tensor) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors)
