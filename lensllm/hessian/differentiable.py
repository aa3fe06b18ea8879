"""A model that autograd can differentiate twice, and the memory of its graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedConfig

from lensllm.core.errors import ModelError
from lensllm.models.batch import Example, collate, token_losses

# Attributes that choose between equivalent computations (``training`` excepted).
# Reentrant checkpoints and mambapy's scan have no second derivative.
_PLAIN = {"training": False, "gradient_checkpointing": False, "use_mambapy": False}
# These settings change a table's gradient but not its output, so it is no true derivative.
_WHOLE_TABLES = {"padding_idx": None, "scale_grad_by_freq": False, "sparse": False}
_NARROW = (torch.bfloat16, torch.float16)


@contextmanager
def double_differentiable(model: Any) -> Iterator[None]:
    """Context in which autograd gives the exact second derivative of the model's loss.

    Evaluation mode; eager attention and experts, since fused ones can be differentiated only once;
    no gradient checkpoints; float32 for narrower weights; a padding token's row of an embedding
    counts as a weight. Everything is restored at the end. Raises ModelError if the model uses
    another attention, which cannot be changed.
    """
    with (
        _attributes(model.modules(), _PLAIN),
        _attributes(filter(_looks_up, model.modules()), _WHOLE_TABLES),
        _attention(model, "eager"),
        _float32(model),
        sdpa_kernel(SDPBackend.MATH),  # for modules that call it themselves
    ):
        for attention in {config._attn_implementation for config in _configs(model)}:
            if attention not in ("eager", "sdpa", None):
                raise ModelError(
                    f"the attention '{attention}' of {type(model).__name__} cannot be changed and "
                    "is not known to have a second derivative; "
                    "load the checkpoint with attn_implementation='eager'"
                )
        yield


@contextmanager
def _attention(model: Any, attention: str) -> Iterator[None]:
    """Context with this attention, where the model has it, and experts that are not fused."""
    before = [(c, c._attn_implementation, c._experts_implementation) for c in _configs(model)]
    try:
        model.set_attn_implementation(attention)
        model.set_experts_implementation("eager")
        yield
    finally:
        for config, its_attention, its_experts in before:  # outer ones first: they pass it on
            config._attn_implementation = its_attention
            config._experts_implementation = its_experts


def _configs(model: Any) -> list[PreTrainedConfig]:
    """Configurations of the model and its parts, each once, outer ones first."""
    found: dict[int, PreTrainedConfig] = {}
    waiting = [m.config for m in model.modules() if hasattr(m, "config")]
    while waiting:
        config = waiting.pop(0)
        if isinstance(config, PreTrainedConfig) and id(config) not in found:
            found[id(config)] = config
            waiting += [getattr(config, name, None) for name in config.sub_configs]
    return list(found.values())


def _looks_up(module: nn.Module) -> bool:
    """True for embedding tables; frozen ones of subclasses compute positions from padding."""
    return isinstance(module, nn.Embedding) and (
        module.weight.requires_grad or type(module) is nn.Embedding
    )


@contextmanager
def _attributes(modules: Iterable[nn.Module], wanted: Mapping[str, Any]) -> Iterator[None]:
    """Context in which every module has the ``wanted`` values of the attributes it has."""
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
    """Context with narrow weights and buffers in float32, in the same Parameter objects."""
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


_FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@dataclass(frozen=True)
class Footprint:
    """Bytes that an autograd graph holds until its backward pass, weights not counted."""

    per_token: float  # by token of the padded batch
    per_target: float  # by target token: logits and tensors of their size

    def bytes_of(self, group: Sequence[Example], config: Any) -> float:
        """Bytes of one batch; an upper bound for examples shorter than the measured one."""
        tokens, targets = padded_tokens(group, config), _target_tokens(group)
        return tokens * self.per_token + targets * self.per_target


def padded_tokens(group: Sequence[Example], config: Any) -> int:
    """Number of tokens of a batch, padded as by ``collate``."""
    if not config.is_encoder_decoder:
        return len(group) * max(map(len, group))
    longest = max(len(e.prompt) for e in group), max(len(e.completion) for e in group)
    return len(group) * sum(longest)


def _target_tokens(group: Sequence[Example]) -> int:
    return sum(len(example.completion) for example in group)


def micro_batches(
    examples: Sequence[Example], fits: Callable[[Sequence[Example]], bool]
) -> list[list[Example]]:
    """Split the examples, sorted by length, into batches of as many as fit, at least one each."""
    groups: list[list[Example]] = []
    for example in sorted(examples, key=len):
        if groups and fits([*groups[-1], example]):
            groups[-1].append(example)
        else:
            groups.append([example])
    return groups


def training_footprint(model: Any, example: Example) -> Footprint:
    """Footprint of a fine-tuning step on ``example``, with fused attention where available."""

    def build() -> object:
        return token_losses(model, collate([example], model.config).to(model.device))

    attention = "sdpa" if model._supports_sdpa else "eager"
    with _attention(model, attention), sdpa_kernel(_FUSED):
        return graph_footprint(model, example, build)


def graph_footprint(model: Any, example: Example, build: Callable[[], object]) -> Footprint:
    """Footprint of the graph of ``example`` that the value returned by ``build`` keeps alive."""
    vocabulary = model.get_output_embeddings().weight.shape[0]
    held: dict[int, tuple[int, bool]] = {}  # by storage: many tensors are views of one

    def note(tensor: Tensor) -> Tensor:
        at_head = tensor.dim() > 0 and tensor.shape[-1] == vocabulary
        held[_address(tensor)] = tensor.untyped_storage().nbytes(), at_head
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        graph = build()
    del graph  # only now: freed storages would have been given out again at the same addresses
    for tensor in (*model.parameters(), *model.buffers()):
        held.pop(_address(tensor), None)
    at_head = sum(size for size, is_at_head in held.values() if is_at_head)
    others = sum(size for size, is_at_head in held.values() if not is_at_head)
    return Footprint(
        others / padded_tokens([example], model.config), at_head / _target_tokens([example])
    )


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
