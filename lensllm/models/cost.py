"""Floating-point operations of training and evaluation, from shapes alone.

- A matrix of N weights costs 2 N per token forward. Backward it costs 2 N for the gradient of its
  input, if something trainable comes before it, and 2 N for that of its weights, if trainable.
- Attention costs 4 · width per pair of positions and layer forward, and up to twice that backward.
  All T × T pairs count: attention with a mask saves none of them.
- A mixture of experts is charged with the experts that a token passes through, and its router.
- Encoder and decoder are charged by their own tokens, cross-attention's keys and values by the
  encoder's, the head by target tokens.
- Padding, norms, softmax, activations, scans of state-space layers, look-ups of embeddings,
  checkpointed gradients and the optimiser are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import groupby
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from lensllm.models.batch import Example

# Projections that read the same input: none of them stands behind the others.
_QUERY, _KEY, _VALUE = {"q", "q_proj", "query"}, {"k", "k_proj", "key"}, {"v", "v_proj", "value"}
_GATED = {"gate_proj", "up_proj", "wi_0", "wi_1", "w1", "w3"}
_ADAPTED = {"base_layer", "lora_A", "lora_B"}  # below a linear map with an adapter (peft)


@dataclass(frozen=True)
class Passes:
    """Multiply-adds of one token, or of one pair of positions."""

    forward: float = 0.0
    backward: float = 0.0
    kept: float = 0.0  # numbers that the matrices read and write, for the backward pass

    def __add__(self, other: Passes) -> Passes:
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Passes(*(one + more for one, more in pairs))

    def __mul__(self, count: int) -> Passes:
        return Passes(*(value * count for value in astuple(self)))


@dataclass(frozen=True)
class Shape:
    """Multiply-adds of a model's parts, by the count that each is multiplied with."""

    encoder: Passes = Passes()  # by encoder token; nothing in a causal model
    decoder: Passes = Passes()  # by decoder token
    cross: Passes = Passes()  # of the decoder, by ENCODER token
    head: Passes = Passes()  # by target token
    encoder_pairs: Passes = Passes()
    decoder_pairs: Passes = Passes()
    cross_pairs: Passes = Passes()  # of a decoder and an encoder position


def forward_flops(shape: Shape, examples: Sequence[Example]) -> float:
    """FLOPs of one forward pass over ``examples`` without padding."""
    return sum(2.0 * example_passes(shape, example).forward for example in examples)


def train_flops(shape: Shape, examples: Sequence[Example], epochs: int) -> float:
    """FLOPs of ``epochs`` forward and backward passes over ``examples`` without padding."""
    total = 0.0
    for example in examples:
        once = example_passes(shape, example)
        total += once.forward + once.backward
    return 2.0 * epochs * total


def example_passes(shape: Shape, example: Example) -> Passes:
    """Multiply-adds of one example."""
    prompt, completion = len(example.prompt), len(example.completion)
    read = completion if shape.encoder.forward else prompt + completion  # by the decoder
    counts = (
        (shape.encoder, prompt),
        (shape.cross, prompt),
        (shape.decoder, read),
        (shape.head, completion),
        (shape.encoder_pairs, prompt * prompt),
        (shape.decoder_pairs, read * read),
        (shape.cross_pairs, read * prompt),
    )
    return sum((part * count for part, count in counts), Passes())


def shape_of(model: Any) -> Shape:
    """The shape of a model, which may be on the meta device, with its adapters."""
    return _Walk(model).shape()


@dataclass(frozen=True)
class _Matrix:
    """Weights that tokens are multiplied by."""

    name: str  # the module's, without what an adapter adds below it
    part: str  # base_layer, lora_A or lora_B of a map with an adapter; else empty
    weights: float  # met by a token
    reads: float  # numbers by token
    writes: float
    trainable: bool

    @property
    def parent(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def slot(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def group(self) -> tuple[str, str]:
        """Equal for matrices that read the same input."""
        if self.slot in _QUERY | _KEY | _VALUE:
            return self.parent, "attention"
        return self.parent, "gated" if self.slot in _GATED else self.slot


class _Walk:
    """A walk through the modules in the order of the forward pass, in which they are registered."""

    def __init__(self, model: Any) -> None:
        self.model, self.config = model, model.config
        self.head = model.get_output_embeddings()
        self.parts: dict[str, Passes] = {}
        self.reached = {"encoder": False, "decoder": False}  # by a gradient of the hidden states
        self.attentions = _attentions(model)
        self.normed = {
            _layer(name) for name, module in model.named_modules() if _is_trainable_norm(module)
        } - {""}

    def shape(self) -> Shape:
        for _, group in groupby(list(self._matrices()), key=lambda matrix: matrix.group):
            self._pass(list(group))
        weight = self.head.weight
        below = self.reached["decoder"] or self.reached["encoder"]
        back = weight.numel() * (below + weight.requires_grad)
        return Shape(**self.parts, head=Passes(weight.numel(), back))

    def _matrices(self) -> Iterator[_Matrix]:
        for name, module in self.model.named_modules():
            if isinstance(module, nn.Embedding):
                self._look_up(name, module)
            elif module is not self.head:
                yield from self._module_matrices(name, module)

    def _look_up(self, name: str, module: nn.Embedding) -> None:
        """An embedding costs nothing, and begins the backward pass where it is trainable."""
        if module.weight.requires_grad and "relative_attention" not in name:
            sided = any(f".{side}." in f".{name}" for side in self.reached)
            shared = self.config.is_encoder_decoder and not sided
            for side in self.reached if shared else [self._side(name)]:
                self.reached[side] = True

    def _module_matrices(self, name: str, module: nn.Module) -> Iterator[_Matrix]:
        path = name.split(".")
        cut = next((i for i, part in enumerate(path) if part in _ADAPTED), len(path))
        leaf, experts = not list(module.children()), self._experts(path)
        for key, weight in module.named_parameters(recurse=False):
            # without children: else it is multiplied element by element, as in Mamba
            if key.endswith("bias") or weight.dim() < 2 or not (leaf or experts):
                continue
            fused = path[-1] == "experts"  # all of them in one tensor
            each = weight[0] if fused else weight
            inputs = each.shape[0 if isinstance(module, Conv1D) else -1]
            met = 1.0  # matrices like it that a token meets
            if experts:
                chosen = getattr(self.config, "num_experts_per_tok", None) or 1
                met = chosen / (1 if fused else experts)
            yield _Matrix(
                name=f"{name}.{key}" if fused else ".".join(path[:cut]),
                part="".join(path[cut : cut + 1]),
                weights=met * each.numel(),
                reads=met * inputs,
                writes=met * each.numel() / inputs,
                trainable=weight.requires_grad,
            )

    def _experts(self, path: list[str]) -> int:
        """Number of expert modules in the mixture that ``path`` leads to; 0 if to none."""
        if "experts" not in path:
            return 0
        holder = self.model.get_submodule(".".join(path[: path.index("experts") + 1]))
        return len(list(holder.children())) or 1

    def _side(self, name: str) -> str:
        inside = self.config.is_encoder_decoder and ".encoder." in f".{name}"
        return "encoder" if inside else "decoder"

    def _pass(self, group: list[_Matrix]) -> None:
        """Add matrices that read the same input, and the attention they feed."""
        parent, side = group[0].parent, self._side(group[0].name)
        cross = side == "decoder" and _is_cross(parent)
        carries: dict[str, bool] = {}
        self._add(side, Passes(kept=group[0].reads))
        for matrix in group:
            from_encoder = cross and matrix.slot in _KEY | _VALUE
            entry = self.reached["encoder" if from_encoder else side]
            if not from_encoder and _layer(parent) in self.normed:  # a norm is its first module
                entry = True
            below = entry or matrix.part == "lora_B"
            back = matrix.weights * (below + matrix.trainable)
            part = "cross" if from_encoder else side
            self._add(part, Passes(matrix.weights, back, matrix.writes))
            carries[matrix.slot] = carries.get(matrix.slot, False) or entry or matrix.trainable
        if parent in self.attentions:
            self.attentions.remove(parent)
            self._attend("cross" if cross else side, carries)
        self.reached[side] = self.reached[side] or any(carries.values())

    def _attend(self, where: str, carries: dict[str, bool]) -> None:
        """Add the products of queries with keys and of attention's shares with values."""

        def any_of(names: set[str]) -> bool:
            separate = carries.keys() & (_QUERY | _KEY | _VALUE)
            return any(c for slot, c in carries.items() if slot in names or not separate)

        query, key, value = any_of(_QUERY), any_of(_KEY), any_of(_VALUE)
        scores, mixed = query + key, (query or key) + value
        config, heads = self.config, self.config.num_attention_heads
        size = getattr(config, "head_dim", None) or getattr(config, "d_kv", None)
        width = float(heads * (size or config.hidden_size // heads))
        # Without fused attention, the scores of every head and pair are kept.
        kept = heads if getattr(config, "_attn_implementation", None) == "eager" else 0
        self._add(f"{where}_pairs", Passes(2 * width, width * (scores + mixed), kept))

    def _add(self, part: str, more: Passes) -> None:
        self.parts[part] = self.parts.get(part, Passes()) + more


def _layer(name: str) -> str:
    """``model.layers.3.mlp.fc`` → ``model.layers.3``; empty outside of layers."""
    found = re.match(r"(.*\.)?\d+(?=\.|$)", name)
    return found[0] if found else ""


def _is_trainable_norm(module: nn.Module) -> bool:
    weights = list(module.parameters(recurse=False))
    return bool(weights) and all(w.dim() == 1 and w.requires_grad for w in weights)


def _is_cross(parent: str) -> bool:
    return bool(re.search(r"(encdec|encoder_attn|crossattention)[^.]*$", parent.lower()))


def _attentions(model: Any) -> set[str]:
    """Modules that multiply queries, keys and values, by the name of their class."""
    named = {n for n, m in model.named_modules() if "Attention" in type(m).__name__}
    return {name for name in named if not any(other.startswith(f"{name}.") for other in named)}
