"""Tiny models and an easy task, for every test of training."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from lensllm.core import seeds
from lensllm.models.batch import Example

CPU, FLOAT = torch.device("cpu"), torch.float32


def tiny(kind: str = "gpt2", dropout: float = 0.1):
    """A model of a few thousand weights, always the same."""
    torch.manual_seed(0)
    if kind == "gpt2":
        config = GPT2Config(
            vocab_size=50,
            n_embd=16,
            n_layer=1,
            n_head=2,
            n_positions=32,
            bos_token_id=0,
            eos_token_id=0,
            **{f"{place}_pdrop": dropout for place in ("resid", "embd", "attn")},
        )
        return GPT2LMHeadModel(config).eval()
    config = T5Config(
        vocab_size=50,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
        dropout_rate=dropout,
    )
    return T5ForConditionalGeneration(config).eval()


def examples(count: int, purpose: str) -> list[Example]:
    """Completions that repeat the prompt's first token: easy to learn."""
    draw = seeds.generator(0, purpose)
    made = []
    for _ in range(count):
        prompt = draw.integers(1, 50, draw.integers(1, 9)).tolist()
        made.append(Example(prompt, [prompt[0]] * int(draw.integers(1, 5)) + [0]))
    return made


TRAIN, VALIDATION = examples(40, "train"), examples(12, "validation")
