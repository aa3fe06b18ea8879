"""Which weights make one layer, that is one diagonal block of the Hessian."""

from __future__ import annotations

from typing import Any

from torch import nn

EMBEDDINGS = "embeddings"
HEAD = "head"


def layers_of(model: Any) -> dict[str, list[str]]:
    """Names of the trainable parameters of each layer, in the model's order.

    - every transformer block is a layer, named by its path (``transformer.h.0``);
    - all embedding tables outside the blocks are the layer ``embeddings``, and so is a head tied
      to them: it is the same parameter;
    - an untied language-model head is ``head``;
    - any other module outside the blocks (a final norm) is a layer named by its path.
    """
    modules = dict(model.named_modules())
    head = model.get_output_embeddings()
    layers: dict[str, list[str]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            owner = name.rpartition(".")[0]
            layers.setdefault(_layer(owner, modules[owner], head), []).append(name)
    return layers


def _layer(path: str, module: nn.Module, head: nn.Module) -> str:
    parts = path.split(".")
    for depth, part in enumerate(parts, start=1):
        if part.isdigit():  # an entry of a ModuleList: the block
            return ".".join(parts[:depth])
    if isinstance(module, nn.Embedding):
        return EMBEDDINGS
    return HEAD if module is head else path
