"""Build an embedded candidate and pretrain it, with fixed steps and seed.

Causal models predict the next token of packed text; encoder-decoder models continue a prefix.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import AutoConfig, PreTrainedConfig

from lensllm.core import seeds
from lensllm.models.batch import Example, collate, token_losses
from lensllm.models.load import from_config
from lensllm.models.zoo.specs import ZooSpec
from lensllm.models.zoo.tokenizer import VOCABULARY

CONTEXT_TOKENS = 256


_GELU = {"activation_function": "gelu_pytorch_tanh"}


def model_config(spec: ZooSpec, vocabulary: int = VOCABULARY, end: int = 0) -> PreTrainedConfig:
    """The transformers configuration of ``spec``; ``end`` is the end-of-text token."""
    width, layers, heads = spec.width, spec.layers, spec.heads
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    length = {"max_position_embeddings": CONTEXT_TOKENS}
    own: dict[str, dict[str, Any]] = {
        "gpt2": {**length, **_GELU, **_zeros("resid_pdrop", "embd_pdrop", "attn_pdrop")},
        "gpt_neo": {
            **length,
            **_GELU,
            **_zeros("resid_dropout", "embed_dropout", "attention_dropout"),
            "attention_types": [[["global", "local"], layers // 2]],
            "window_size": 32,
        },
        "t5": {
            "num_decoder_layers": layers,
            "d_kv": width // heads,
            "d_ff": 3 * width,
            "dropout_rate": 0.0,
        },
        "opt": {
            **length,
            **_zeros("dropout", "attention_dropout", "layerdrop"),
            "word_embed_proj_dim": width,
            "ffn_dim": 4 * width,
        },
        "qwen3": {
            **length,
            "num_key_value_heads": heads,
            "head_dim": width // heads,
            "intermediate_size": 5 * width // 2,
            "tie_word_embeddings": True,
        },
    }
    config = AutoConfig.for_model(spec.architecture, **sizes, **own[spec.architecture])
    config.vocab_size = vocabulary
    config.bos_token_id = config.eos_token_id = config.pad_token_id = end
    config.decoder_start_token_id = end if config.is_encoder_decoder else None
    return config


def _zeros(*names: str) -> dict[str, float]:
    return dict.fromkeys(names, 0.0)


_REPORT_STEPS = 20
_WARMUP = 0.1  # share of the steps
_MAX_GRADIENT_NORM = 1.0


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


def pretrain(spec: ZooSpec, tokenizer: Any, texts: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Train ``spec`` on ``texts`` (kind, text) and save model and tokenizer to ``folder``.

    One thread on the CPU: the same versions write the same bytes. Returns the table
    ``pretrain/curve``.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeds.integer(spec.seed, "initialisation", spec.name))
            model = from_config(model_config(spec, len(tokenizer), tokenizer.eos_token_id))
        curve = _train(spec, model, _rows(spec, texts, tokenizer))
    finally:
        torch.set_num_threads(threads)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return pd.DataFrame(curve, columns=["step", "tokens", "nats_per_token"])


def _train(spec: ZooSpec, model: Any, rows: np.ndarray) -> list[tuple[int, int, float]]:
    """AdamW with warm-up and linear decay; (step, tokens so far, mean loss since the last)."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=spec.learning_rate, fused=True)
    cuts = [1] * len(rows)  # where the completion begins
    if model.config.is_encoder_decoder:  # prompts are short
        rng = seeds.generator(spec.seed, "splits", spec.name)
        cuts = rng.integers(spec.length // 8, spec.length // 2, size=len(rows)).tolist()
    examples = [Example(row[:n], row[n:]) for row, n in zip(rows.tolist(), cuts, strict=True)]
    curve: list[tuple[int, int, float]] = []
    losses: list[float] = []
    model.train()
    for step in range(spec.steps):
        for group in optimiser.param_groups:
            group["lr"] = _learning_rate(step, spec)
        batch = examples[step * spec.batch : (step + 1) * spec.batch]
        loss = token_losses(model, collate(batch, model.config)).mean()
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

    Apart from fine-tuning's, whose changes must not touch the embedded candidates' weights.
    """
    rise = max(1, round(_WARMUP * spec.steps))
    if step < rise:
        return spec.learning_rate * (step + 1) / rise
    return spec.learning_rate * (spec.steps - step) / max(1, spec.steps - rise)
