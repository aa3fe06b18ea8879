"""The kernel's spectrum from texts: what a notebook has, a model, its tokenizer and examples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import pandas as pd

from lensllm.data.tokens import select, tokenise
from lensllm.ntk.kernel import residual_kernel
from lensllm.spectra.spectrum import Spectrum


def ntk_spectrum(
    model: Any,
    tokenizer: Any,
    examples: Iterable[tuple[str, str]],
    *,
    max_tokens: int = 512,
    method: Literal["auto", "exact", "sketch"] = "auto",
) -> Spectrum:
    """Spectrum of a model's neural tangent kernel on its residuals at the present weights.

    With n examples the kernel K is (n, n): K_ij is the inner product of the gradients of the losses
    of examples i and j over all trainable weights, divided by the norms of their residuals (Zeng et
    al. 2025, equations 8 and 9). ``residual(t)`` of the result is F(Θ, t), the residual left after
    gradient-flow time t.

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
