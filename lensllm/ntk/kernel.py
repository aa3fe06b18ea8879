"""The neural tangent kernel of a pretrained model, compressed exactly onto its residual.

With examples i = 1 … n and their target tokens T_i (Zeng et al. 2025, eqs. 8–9, for outputs of
tokens × vocabulary):

- residual r_i = (softmax(f) − onehot(y)) / √|T_i| over the example's target tokens, ρ_i = ‖r_i‖;
- g_i = J_iᵀ r_i / √|T_i| = ∇ ℓ_i, the gradient of the example's mean loss in nats per token;
- K_ij = ⟨g_i, g_j⟩ / (ρ_i ρ_j) = Pᵀ Θ P with P = blockdiag(r_i / ρ_i).

The residual is Pρ and lies in the span of P, so F(0) = Σ ρ_i² and F′(0) are exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from lensllm.core.errors import DataError, ModelError
from lensllm.data.tokens import select, tokenise
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

    An example that is predicted with certainty (ρ = 0) has a row of zeros. Weights in bfloat16 or
    float16 are summed in float32.

    Args:
        model: transformers model; evaluated without dropout, on its device.
        examples: n training examples, never test ones.
        method: ``auto`` sketches where exact products cost too much.
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
            chosen, gram, norms = _named_products(model, examples, method, memory_bytes)
    finally:
        for module, training in modes.items():
            module.training = training
    scale = norms.outer(norms).numpy()
    matrix = np.divide(gram.numpy(), scale, out=np.zeros_like(scale), where=scale > 0)
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
        ids = (*example.prompt, *example.completion)
        if not 0 <= min(ids) <= max(ids) < vocabulary:
            raise DataError(
                f"kernel probe {i} has token {max(ids) if min(ids) >= 0 else min(ids)}, and the "
                f"model knows 0 to {vocabulary - 1}; use the checkpoint's own tokenizer"
            )


def _named_products(
    model: Any, examples: Sequence[Example], method: Wanted, memory_bytes: int
) -> tuple[Computation, Tensor, Tensor]:
    """``products``, with an error that names the layer where a gradient stops being finite."""
    try:
        return products(model, examples, method, memory_bytes)
    except NotFinite as error:
        unexplained = str(error)
    # Outside the handler, which would keep the factors in memory.
    raise ModelError(_not_finite_part(model, examples) or unexplained)


def _not_finite_part(model: Any, examples: Sequence[Example]) -> str:
    """A sentence on the first part that is not finite; empty if all parts are.

    A NaN flows backward to the embedding from any layer, so the first weight whose gradient has one
    says nothing. Weights, outputs and gradients are checked in turn.
    """
    if name := weight_not_finite(model):
        return f"the weight {name} is not finite; the checkpoint is damaged"
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    dtype = str(model.dtype).removeprefix("torch.")
    outputs: list[str] = []  # modules whose output is not finite, innermost first
    order: dict[str, int] = {}  # of modules: larger nearer to the loss

    def check_output(name: str, out: Any) -> None:
        order[name] = len(order)
        parts = out if isinstance(out, tuple | list) else (out,)
        if not _finite(*(part for part in parts if isinstance(part, Tensor))):
            outputs.append(name)

    handles = [
        module.register_forward_hook(lambda _, __, out, name=name: check_output(name, out))
        for name, module in model.named_modules()
    ]
    try:
        for example in examples:
            order.clear()
            uses, _ = single_gradients(model, weights, [example])
            if outputs:
                return (
                    f"the output of {outputs[0]} is not finite on a kernel probe, though every "
                    f"weight is: it overflows {dtype} or divides by zero; leave this candidate out"
                )
            bad = [name for name, found in uses.items() if not _finite(*found[0].tensors)]
            if bad:
                nearest = max(bad, key=lambda name: order.get(name.rpartition(".")[0], -1))
                return (
                    f"on a kernel probe the gradient is not finite from {nearest} on downwards, "
                    "though every weight and output is: the backward pass of what comes after it "
                    f"overflows {dtype} or is wrong; leave this candidate out"
                )
    finally:
        for handle in handles:
            handle.remove()
    return ""


def _finite(*tensors: Tensor) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def ntk_spectrum(
    model: Any,
    tokenizer: Any,
    examples: Iterable[tuple[str, str]],
    *,
    max_tokens: int = 512,
    method: Wanted = "auto",
) -> Spectrum:
    """Spectrum of a model's neural tangent kernel on its residuals at the present weights.

    ``residual(t)`` of the result is F(Θ, t), the residual left after gradient-flow time t (Zeng et
    al. 2025, equations 8 and 9).

    Args:
        model: a causal or encoder-decoder language model of transformers, on the device it is on.
        tokenizer: the model's tokenizer, with an end-of-text token.
        examples: n pairs (prompt, completion); only the completion has a loss. 32 to 128 will do.
        max_tokens: longest example; a prompt is cut at its beginning, a completion at its end.
        method: ``exact``, ``sketch``, or by the model's size ``auto``.

    Returns:
        n eigenvalues of K / n, descending, and the squared coordinates of the residual.

    Raises:
        DataError: there is no example, or its tokens are not the model's.
        ModelError: no weight is trainable, or the loss has no finite gradient.

    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> from lensllm.models.zoo import tokenizer
    >>> words = tokenizer.train(["red green blue"] * 10, vocabulary=270)
    >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=len(words), n_embd=8, n_layer=1, n_head=2))
    >>> found = ntk_spectrum(model, words, [("red", "green"), ("green", "blue"), ("blue", "red")])
    >>> found.eigenvalues.shape, bool(found.residual(1.0) < found.residual(0.0))
    ((3,), True)
    """
    pairs = pd.DataFrame(list(examples), columns=["prompt", "completion"])
    tokens = tokenise(pairs, tokenizer, max_tokens)
    return residual_kernel(model, select(tokens, range(len(pairs))), method=method).spectrum
