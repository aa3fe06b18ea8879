"""A model as autograd differentiates it twice, exactly, and as it was afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedConfig

from lensllm.core.errors import ModelError

# Attributes of modules that choose between equal ways to compute the same, but for ``training``.
# Reentrant checkpoints and mambapy's scan have no second derivative.
_PLAIN = {"training": False, "gradient_checkpointing": False, "use_mambapy": False}
# These leave a table's output alone and change its gradient, which is then of no function.
_WHOLE_TABLES = {"padding_idx": None, "scale_grad_by_freq": False, "sparse": False}
_NARROW = (torch.bfloat16, torch.float16)


@contextmanager
def double_differentiable(model: Any) -> Iterator[None]:
    """Within it the loss has the second derivative of the function that it is.

    Evaluation mode; eager attention and experts, since fused ones can be differentiated once; no
    checkpoints; weights in float32 if they are narrower; and a padding token's row of an embedding
    counts as what it is, a weight. All is put back at the end, weights bit by bit.

    Raises ModelError when the model's attention is another and cannot be changed.
    """
    with (
        _attributes(model.modules(), _PLAIN),
        _attributes(filter(_looks_up, model.modules()), _WHOLE_TABLES),
        implementations(model, attention="eager", experts="eager"),
        _float32(model),
        sdpa_kernel(SDPBackend.MATH),  # for modules that call it themselves
    ):
        _require_differentiable_attention(model)
        yield


@contextmanager
def implementations(model: Any, *, attention: str, experts: str) -> Iterator[None]:
    """Of attention and experts, as transformers names them; models without a choice keep theirs."""
    before = [(c, c._attn_implementation, c._experts_implementation) for c in _configs(model)]
    try:
        model.set_attn_implementation(attention)
        model.set_experts_implementation(experts)
        yield
    finally:
        for config, its_attention, its_experts in before:  # outer ones first: they pass it on
            config._attn_implementation = its_attention
            config._experts_implementation = its_experts


def _configs(model: Any) -> list[PreTrainedConfig]:
    """Of the model and its parts, each once, outer ones first."""
    found: dict[int, PreTrainedConfig] = {}
    waiting = [m.config for m in model.modules() if hasattr(m, "config")]
    while waiting:
        config = waiting.pop(0)
        if isinstance(config, PreTrainedConfig) and id(config) not in found:
            found[id(config)] = config
            waiting += [getattr(config, name, None) for name in config.sub_configs]
    return list(found.values())


def _require_differentiable_attention(model: Any) -> None:
    for attention in {config._attn_implementation for config in _configs(model)}:
        if attention not in ("eager", "sdpa", None):
            raise ModelError(
                f"the attention '{attention}' of {type(model).__name__} cannot be changed and is "
                "not known to have a second derivative; "
                "load the checkpoint with attn_implementation='eager'"
            )


def _looks_up(module: nn.Module) -> bool:
    """And nothing more: frozen tables of other classes compute positions with their padding."""
    return isinstance(module, nn.Embedding) and (
        module.weight.requires_grad or type(module) is nn.Embedding
    )


@contextmanager
def _attributes(modules: Iterable[nn.Module], wanted: Mapping[str, Any]) -> Iterator[None]:
    """Those among ``wanted`` that a module has."""
    before = [(m, name, vars(m)[name]) for m in modules for name in wanted if name in vars(m)]
    try:
        for module, name, _ in before:
            setattr(module, name, wanted[name])
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


@contextmanager
def _float32(model: Any) -> Iterator[None]:
    """Narrow weights and buffers as float32, in the same Parameter objects."""
    weights = [(p, p.data) for p in model.parameters()]
    buffers = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if buffer.dtype in _NARROW
    ]
    try:
        for weight, data in weights:
            if data.dtype in _NARROW:
                weight.data = data.float()
        for module, name, buffer in buffers:
            setattr(module, name, buffer.float())
        yield
    finally:
        for weight, data in weights:
            if weight.dtype != data.dtype:  # a forward pass may change it, too: Switch's routers
                weight.data = data
        for module, name, buffer in buffers:
            setattr(module, name, buffer)
