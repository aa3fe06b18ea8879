"""Memory that fine-tuning takes, from shapes alone: before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

from lensllm.models.batch import Example
from lensllm.models.cost import example_passes, shape_of

_FLOAT32 = 4
# All activations, in multiples of what the matrices read and write: 1.0 to 2.9 on 24 families.
_BESIDE = 1.5
_AT_HEAD = 3  # logits, their log-softmax and the gradient at them


@dataclass(frozen=True)
class Memory:
    """Bytes of one training step at its peak."""

    weights: float
    gradients: float
    moments: float  # AdamW's two
    best: float  # the weights of the best epoch so far
    activations: float

    @property
    def total(self) -> float:
        return float(sum(astuple(self)))


def memory(model: Any, batch: Sequence[Example], *, checkpointing: bool = False) -> Memory:
    """Memory of fine-tuning ``model`` in float32 with micro-batches like ``batch``, in bytes.

    The model may be on the meta device and have adapters.
    """
    weights = float(_FLOAT32 * sum(p.numel() for p in model.parameters()))
    trained = float(_FLOAT32 * sum(p.numel() for p in model.parameters() if p.requires_grad))
    activations = _activations(model, batch, checkpointing=checkpointing)
    return Memory(weights, trained, 2 * trained, best=trained, activations=activations)


def amount(size: float) -> str:
    """A number of bytes as text, e.g. ``1.5 GiB``."""
    return f"{size / 2**30:.2g} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.2g} MiB"


def _activations(model: Any, batch: Sequence[Example], *, checkpointing: bool) -> float:
    """Padded, as the loop does it: every example takes what the longest takes."""
    if model.config.is_encoder_decoder:
        sides = max(len(e.prompt) for e in batch), max(len(e.completion) for e in batch)
    else:
        sides = max(map(len, batch)), 0
    padded = Example(*([0] * length for length in sides))
    body = _BESIDE * example_passes(shape_of(model), padded).kept
    if checkpointing:  # the blocks' inputs, and one block at a time
        blocks = model.config.num_hidden_layers
        body = body / blocks + blocks * model.config.hidden_size * len(padded)
    targets = sum(len(e.completion) for e in batch)
    vocabulary = model.get_output_embeddings().weight.shape[0]
    head = _AT_HEAD * vocabulary * targets * _FLOAT32
    return float(_FLOAT32 * len(batch) * body + head)
