"""Which weights make one layer, that is one diagonal block of the Hessian."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from lensllm.core.errors import ModelError

EMBEDDINGS = "embeddings"
HEAD = "head"


def layers_of(model: Any) -> dict[str, list[str]]:
    """Names of the trainable parameters of each layer, in the model's order.

    - every transformer block is a layer, named by its path (``transformer.h.0``);
    - all embedding tables outside the blocks are the layer ``embeddings``, and so is a head tied
      to them: it is the same parameter;
    - an untied language-model head is ``head``;
    - any other module outside the blocks (a final norm) is a layer named by its path.

    An adapter belongs to the layer of what it adapts. Raises ModelError if every weight is frozen.
    """
    modules = dict(model.named_modules())
    head = model.get_output_embeddings()
    layers: dict[str, list[str]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            layers.setdefault(_layer(name.rpartition(".")[0], modules, head), []).append(name)
    if not layers:
        raise ModelError(
            "curvature needs a trainable weight and every one of the model is frozen; "
            "unfreeze those that fine-tuning moves"
        )
    return layers


def _layer(path: str, modules: Mapping[str, nn.Module], head: nn.Module) -> str:
    parts = path.split(".")
    for depth, part in enumerate(parts, start=1):
        outer = ".".join(parts[:depth])
        if part.isdigit():  # an entry of a ModuleList: the block
            return outer
        if modules[outer] is head:
            return HEAD
        if isinstance(_adapted(modules[outer]), nn.Embedding):
            return EMBEDDINGS
    return path


def _adapted(module: nn.Module) -> nn.Module:
    """What peft wraps in its adapters."""
    base = getattr(module, "base_layer", module)
    return base if isinstance(base, nn.Module) else module
