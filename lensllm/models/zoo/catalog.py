"""The embedded candidates: a dozen small language models, pretrained on the spot.

They differ in architecture, size and pretraining text, so that which of them is best depends on how
much fine-tuning data there is. Steps and seeds are fixed: the same text gives the same weights.
"""

from __future__ import annotations

from collections.abc import Callable

from transformers import (
    GPT2Config,
    GPTNeoConfig,
    OPTConfig,
    PretrainedConfig,
    Qwen3Config,
    T5Config,
)

from lensllm.models.zoo.specs import ZooSpec
from lensllm.models.zoo.tokenizer import VOCABULARY

CONTEXT_TOKENS = 256


def _gpt2(width: int, layers: int, heads: int) -> PretrainedConfig:
    return GPT2Config(
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        n_positions=CONTEXT_TOKENS,
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )


def _neo(width: int, layers: int, heads: int) -> PretrainedConfig:
    return GPTNeoConfig(
        hidden_size=width,
        num_layers=layers,
        num_heads=heads,
        activation_function="gelu_pytorch_tanh",
        attention_types=[[["global", "local"], layers // 2]],
        window_size=32,
        max_position_embeddings=CONTEXT_TOKENS,
        resid_dropout=0.0,
        embed_dropout=0.0,
        attention_dropout=0.0,
    )


def _t5(width: int, layers: int, heads: int) -> PretrainedConfig:
    return T5Config(
        d_model=width,
        num_layers=layers,
        num_decoder_layers=layers,
        num_heads=heads,
        d_kv=width // heads,
        d_ff=3 * width,
        dropout_rate=0.0,
    )


def _opt(width: int, layers: int, heads: int) -> PretrainedConfig:
    return OPTConfig(
        hidden_size=width,
        word_embed_proj_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        ffn_dim=4 * width,
        max_position_embeddings=CONTEXT_TOKENS,
        dropout=0.0,
        attention_dropout=0.0,
        layerdrop=0.0,
    )


def _qwen3(width: int, layers: int, heads: int) -> PretrainedConfig:
    return Qwen3Config(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=width // heads,
        intermediate_size=5 * width // 2,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
    )


_CONFIGS: dict[str, Callable[[int, int, int], PretrainedConfig]] = {
    "gpt2": _gpt2,
    "gpt_neo": _neo,
    "t5": _t5,
    "opt": _opt,
    "qwen3": _qwen3,
}


def config(spec: ZooSpec, vocabulary: int = VOCABULARY, end: int = 0) -> PretrainedConfig:
    """The transformers configuration of ``spec``; ``end`` is the end-of-text token."""
    made = _CONFIGS[spec.architecture](spec.width, spec.layers, spec.heads)
    made.vocab_size = vocabulary
    made.bos_token_id = made.eos_token_id = made.pad_token_id = end
    made.decoder_start_token_id = end if made.is_encoder_decoder else None
    return made
