"""Floating-point operations of training and evaluation, from shapes alone.

A forward pass costs 2 per matrix weight and token plus 4 · layers · width · T per token for
attention over T positions; a training step costs three forward passes. The head runs on target
tokens only, as our loop does. Encoder and decoder are charged by their own tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lensllm.models.batch import Example


@dataclass(frozen=True)
class Shape:
    """What the cost of a model depends on."""

    encoder: int  # matrix weights each encoder token passes through; 0 for a causal model
    decoder: int  # matrix weights each decoder token passes through
    cross: int  # matrix weights of the decoder that each ENCODER token passes through
    head: int  # weights of the language-model head
    layers: int
    width: int  # of the attention: heads times head size


def shape_of(model: Any) -> Shape:
    """Read the shape off a loaded (or meta-device) model."""
    config = model.config
    head = model.get_output_embeddings()
    encoder = cross = decoder = 0
    for name, module in model.named_modules():
        if module is head or isinstance(module, nn.Embedding) or list(module.children()):
            continue
        weights = sum(p.numel() for p in module.parameters(recurse=False) if p.dim() >= 2)
        if config.is_encoder_decoder and _is_cross_key(name):
            cross += weights
        elif ".encoder." in f".{name}":
            encoder += weights
        else:
            decoder += weights
    heads = config.num_attention_heads
    width = heads * (
        getattr(config, "head_dim", None)
        or getattr(config, "d_kv", None)
        or config.hidden_size // heads
    )
    return Shape(encoder, decoder, cross, head.weight.numel(), config.num_hidden_layers, width)


def _is_cross_key(name: str) -> bool:
    """Keys and values of cross-attention read the encoder's output: charged by its tokens."""
    parts = name.lower().split(".")
    cross = any("encdec" in p or "encoder_attn" in p or "crossattention" in p for p in parts)
    return cross and parts[-1] in ("k", "v", "k_proj", "v_proj", "key", "value")


def forward_flops(shape: Shape, examples: Sequence[Example]) -> float:
    """Of one forward pass over ``examples`` without padding."""
    return sum(_one_forward(shape, len(e.prompt), len(e.completion)) for e in examples)


def _one_forward(shape: Shape, prompt: int, completion: int) -> float:
    attention = 4 * shape.layers * shape.width
    if shape.encoder:
        body = shape.encoder * prompt + shape.cross * prompt + shape.decoder * completion
        pairs = prompt * prompt + completion * completion + completion * prompt
    else:
        length = prompt + completion
        body = shape.decoder * length
        pairs = length * length
    return 2.0 * (body + shape.head * completion) + float(attention * pairs)


def train_flops(shape: Shape, examples: Sequence[Example], epochs: int) -> float:
    """Of ``epochs`` passes of forward and backward."""
    return 3.0 * epochs * forward_flops(shape, examples)
