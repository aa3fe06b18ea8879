"""Memory that fine-tuning takes, from shapes alone: before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

from lensllm.models.batch import Example
from lensllm.models.cost import example_passes, shape_of

_FLOAT32 = 4
# What norms, activations, rotations and residual sums keep beside what the matrices read and write:
# measured on 24 families, 1.0 to 2.9 times the latter in all (``tests/lensllm/models``).
_BESIDE = 1.5
# Logits, their log-softmax and the gradient at them.
_AT_HEAD = 3


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


def memory(
    model: Any, batch: Sequence[Example], *, checkpointing: bool = False, bytes_per_number: int = 4
) -> Memory:
    """Memory of fine-tuning ``model`` with micro-batches like ``batch``, in bytes.

    The model may be on the meta device and have adapters; products have ``bytes_per_number``.

    Scores of attention are kept where the model's is not fused. Weights, gradients and moments are
    float32, and where the products are narrower every matrix has a narrow copy.
    """
    everything = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    narrow = bytes_per_number * everything if bytes_per_number < _FLOAT32 else 0
    return Memory(
        weights=float(_FLOAT32 * everything + narrow),
        gradients=float(_FLOAT32 * trainable),
        moments=float(2 * _FLOAT32 * trainable),
        best=float(_FLOAT32 * trainable),
        activations=_activations(model, batch, bytes_per_number, checkpointing=checkpointing),
    )


def _activations(
    model: Any, batch: Sequence[Example], bytes_per_number: int, *, checkpointing: bool
) -> float:
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
    return float(bytes_per_number * len(batch) * body + head)
