"""Build an embedded candidate and pretrain it on the spot, with fixed steps and seed.

Causal models predict the next token of packed text; encoder-decoder models continue a prefix. The
same text gives the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import (
    GPT2Config,
    GPTNeoConfig,
    OPTConfig,
    PretrainedConfig,
    Qwen3Config,
    T5Config,
)

from lensllm.core import seeds
from lensllm.models.batch import Example, collate, token_losses
from lensllm.models.load import from_config
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


def model_config(spec: ZooSpec, vocabulary: int = VOCABULARY, end: int = 0) -> PretrainedConfig:
    """The transformers configuration of ``spec``; ``end`` is the end-of-text token."""
    config = _CONFIGS[spec.architecture](spec.width, spec.layers, spec.heads)
    config.vocab_size = vocabulary
    config.bos_token_id = config.eos_token_id = config.pad_token_id = end
    config.decoder_start_token_id = end if config.is_encoder_decoder else None
    return config


_REPORT_STEPS = 20
_WARMUP = 0.1  # share of the steps
_MAX_GRADIENT_NORM = 1.0


def _build(spec: ZooSpec, tokenizer: Any) -> Any:
    config = model_config(spec, len(tokenizer), tokenizer.eos_token_id)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.integer(spec.seed, "initialisation", spec.name))
        return from_config(config)


def _chunks(texts: pd.DataFrame, kind: str, tokenizer: Any, length: int, most: int) -> np.ndarray:
    """Packed text of ``kind``, shape (chunks, length + 1), at most ``most`` chunks."""
    ids: list[int] = []
    for text in texts.loc[texts["kind"] == kind, "text"]:
        if len(ids) > most * (length + 1):
            break
        ids += [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
    count = min(len(ids) // (length + 1), most)
    return np.array(ids[: count * (length + 1)]).reshape(count, length + 1)


def _rows(spec: ZooSpec, texts: pd.DataFrame, tokenizer: Any) -> np.ndarray:
    """Every training sequence in order, shape (steps * batch, length + 1).

    Each kind gives its share; a kind with too little text is read several times.
    """
    rng = seeds.generator(spec.seed, "pretrain", spec.name)
    total = spec.steps * spec.batch
    parts = []
    for kind, share in spec.mix.items():
        wanted = math.ceil(total * share / sum(spec.mix.values()))
        chunks = _chunks(texts, kind, tokenizer, spec.length, wanted)
        passes = math.ceil(wanted / len(chunks))
        order = np.concatenate([rng.permutation(len(chunks)) for _ in range(passes)])
        parts.append(chunks[order[:wanted]])
    rows = np.concatenate(parts)
    return rows[rng.permutation(len(rows))[:total]]


def _examples(rows: np.ndarray, splits: np.ndarray | None) -> list[Example]:
    """Sequences as next-token tasks, or as prefix → suffix tasks cut at ``splits``."""
    cuts = [1] * len(rows) if splits is None else splits.tolist()
    return [Example(row[:cut], row[cut:]) for row, cut in zip(rows.tolist(), cuts, strict=True)]


def pretrain(
    spec: ZooSpec,
    tokenizer: Any,
    texts: pd.DataFrame,
    folder: Path,
) -> pd.DataFrame:
    """Train ``spec`` on ``texts`` (kind, text) and save model and tokenizer to ``folder``.

    One thread on the CPU, fixed steps: the same versions write the same bytes. Returns the table
    ``pretrain/curve``, a row per ``_REPORT_STEPS`` steps.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = _build(spec, tokenizer)
        curve = _train(spec, model, _rows(spec, texts, tokenizer))
    finally:
        torch.set_num_threads(threads)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return pd.DataFrame(curve, columns=["step", "tokens", "nats_per_token"])


def _train(spec: ZooSpec, model: Any, rows: np.ndarray) -> list[tuple[int, int, float]]:
    """AdamW with warm-up and linear decay; (step, tokens so far, mean loss since the last)."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=spec.learning_rate, fused=True)
    splits = None
    if model.config.is_encoder_decoder:  # prompts are short
        rng = seeds.generator(spec.seed, "splits", spec.name)
        splits = rng.integers(spec.length // 8, spec.length // 2, size=len(rows))
    curve: list[tuple[int, int, float]] = []
    losses: list[float] = []
    model.train()
    for step in range(spec.steps):
        for group in optimiser.param_groups:
            group["lr"] = _learning_rate(step, spec)
        part = slice(step * spec.batch, (step + 1) * spec.batch)
        examples = _examples(rows[part], None if splits is None else splits[part])
        loss = token_losses(model, collate(examples, model.config)).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), _MAX_GRADIENT_NORM)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        if (step + 1) % _REPORT_STEPS == 0 or step + 1 == spec.steps:
            tokens = (step + 1) * spec.batch * spec.length
            curve.append((step + 1, tokens, sum(losses) / len(losses)))
            losses.clear()
    return curve


def _learning_rate(step: int, spec: ZooSpec) -> float:
    """Linear rise over the first ``_WARMUP`` share of the steps, then linear fall to 0.

    Pretraining has a schedule of its own, so that a change of fine-tuning's leaves the embedded
    candidates' weights as they are.
    """
    rise = max(1, round(_WARMUP * spec.steps))
    if step < rise:
        return spec.learning_rate * (step + 1) / rise
    return spec.learning_rate * (spec.steps - step) / max(1, spec.steps - rise)
