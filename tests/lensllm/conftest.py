"""Tiny random models of every architecture (fewer than 2,000 weights) and examples for them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GPT2Config,
    GPTNeoConfig,
    OPTConfig,
    Qwen3Config,
    T5Config,
)

from lensllm.models.batch import Example

VOCABULARY = 11
ARCHITECTURES = ("gpt2", "gpt_neo", "opt", "t5", "qwen3")

_SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "vocab_size": VOCABULARY}
_CONFIGS: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: GPT2Config(**_SPECIAL, n_positions=24, n_embd=8, n_layer=1, n_head=2),
    "gpt_neo": lambda: GPTNeoConfig(
        **_SPECIAL,
        max_position_embeddings=24,
        hidden_size=8,
        num_layers=2,
        num_heads=2,
        attention_types=[[["global", "local"], 1]],
        window_size=4,
    ),
    "opt": lambda: OPTConfig(
        **_SPECIAL,
        max_position_embeddings=24,
        hidden_size=8,
        word_embed_proj_dim=8,
        ffn_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    ),
    "t5": lambda: T5Config(
        **_SPECIAL,
        d_model=8,
        d_kv=4,
        d_ff=16,
        num_layers=1,
        num_decoder_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
        relative_attention_num_buckets=4,
    ),
    "qwen3": lambda: Qwen3Config(
        **_SPECIAL,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        max_position_embeddings=24,
        tie_word_embeddings=False,
    ),
}


def _tiny_model(architecture: str, seed: int = 0) -> Any:
    config = _CONFIGS[architecture]()
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = auto.from_config(config).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():  # weights large enough that every layer bends the loss
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.4 * noise + (parameter.dim() == 1))
    return model


def _tiny_examples(count: int, seed: int = 0) -> list[Example]:
    generator = np.random.default_rng(seed)

    def tokens(longest: int) -> list[int]:
        return generator.integers(1, VOCABULARY, generator.integers(1, longest + 1)).tolist()

    return [Example(tokens(6), tokens(5)) for _ in range(count)]


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    """Every architecture in turn."""
    return request.param


@pytest.fixture
def tiny_model() -> Callable[..., Any]:
    """``tiny_model(architecture, seed=0)``: float64, random weights, evaluation mode."""
    return _tiny_model


@pytest.fixture
def tiny_examples() -> Callable[..., list[Example]]:
    """``tiny_examples(count, seed=0)``: prompts of 1–6 and completions of 1–5 tokens."""
    return _tiny_examples


@pytest.fixture
def plain_losses() -> Callable[..., torch.Tensor]:
    """``plain_losses(model, examples, weights=None)``: mean nats per token of each example, (n,).

    An implementation of its own: one unpadded example at a time, full logits, no hooks; with
    ``weights`` the model's parameters are replaced by those (for ``torch.func``).
    """
    return _plain_losses


def _plain_losses(
    model: Any, examples: list[Example], weights: dict[str, torch.Tensor] | None = None
) -> torch.Tensor:
    return torch.stack(
        [
            -logits.log_softmax(-1)[range(len(e.completion)), e.completion].mean()
            for e, logits in zip(examples, plain_logits(model, examples, weights), strict=True)
        ]
    )


def plain_logits(
    model: Any, examples: list[Example], weights: dict[str, torch.Tensor] | None = None
) -> list[torch.Tensor]:
    """Logits of each example's target tokens, (targets, vocabulary) each."""
    found = []
    for example in examples:
        if model.config.is_encoder_decoder:
            decoder = [model.config.decoder_start_token_id, *example.completion[:-1]]
            arguments = {
                "input_ids": torch.tensor([example.prompt]),
                "decoder_input_ids": torch.tensor([decoder]),
            }
            first = 0
        else:
            arguments = {"input_ids": torch.tensor([[*example.prompt, *example.completion]])}
            first = len(example.prompt) - 1
        output = torch.func.functional_call(
            model, weights or {}, (), arguments | {"use_cache": False}
        )
        found.append(output.logits[0, first : first + len(example.completion)])
    return found


@pytest.fixture(name="plain_logits")
def _plain_logits_fixture() -> Callable[..., list[torch.Tensor]]:
    """``plain_logits(model, examples, weights=None)``: see ``plain_losses``."""
    return plain_logits
