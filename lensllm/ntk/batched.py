"""Gradients of many probes from one batched pass, as factors.

During the forward pass every use of a trainable weight by a torch function is seen. A linear map, a
lookup, a gain or a bias leaves what came in; a hook on what went out leaves the gradient there. No
gradient of a weight is computed. Any other use is refused, and the probes go one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lensllm.models.batch import Example
from lensllm.ntk.forward import losses
from lensllm.ntk.uses import Lookup, Outer, Use

# From the gradient at the output of a function (B, …) to the uses of its weights, by name.
Backward = Callable[[Tensor], dict[str, Use]]


class NotFactored(Exception):
    """A weight is used in a way that leaves no factors; the message says which and how."""


def gradients(
    model: Any, weights: Mapping[str, Tensor], probes: Sequence[Example]
) -> tuple[dict[str, list[Use]], Tensor]:
    """All uses of every weight by the probes, and their residual norms (B,).

    Raises NotFactored.
    """
    with _frozen(weights):
        watch = _Watch(weights, len(probes))
        with watch:
            loss, norms = losses(model, probes)
        if not loss.requires_grad:
            raise NotFactored("the loss has no gradient")
        torch.autograd.backward(loss.sum())
    return watch.uses, norms


@contextmanager
def _frozen(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Gradients flow to activations only."""
    for weight in weights.values():
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights.values():
            weight.requires_grad_(True)


class _Watch(TorchFunctionMode):
    """Sees the functions that take a weight."""

    def __init__(self, weights: Mapping[str, Tensor], size: int) -> None:
        super().__init__()
        self.uses: dict[str, list[Use]] = {name: [] for name in weights}
        self._names = {id(weight): name for name, weight in weights.items()}
        self._alive: list[Tensor] = []  # so that no id is given twice
        self.size = size
        self._picked = False  # whether rows were picked by index, as experts do

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _PICKS and args and isinstance(args[0], Tensor) and args[0].requires_grad:
            self._picked = self._picked or any(isinstance(a, Tensor) for a in _flat(args[1:]))
        given = _flat((*args, *kwargs.values()))
        named = [self._names[id(a)] for a in given if id(a) in self._names]
        if not named:
            return func(*args, **kwargs)
        if func in _RULES and not (func in _KEEP_GRADIENT and _has_number(args)):
            try:
                args, kwargs, backward = _RULES[func](self, *args, **kwargs)
            except TypeError:  # arguments that a rule does not know, such as a factor
                raise NotFactored(f"{named[0]} is used by an unusual {_called(func)}") from None
            out = func(*args, **kwargs)
            return self._hooked(out, backward)
        out = func(*args, **kwargs)
        if not isinstance(out, Tensor) and any(isinstance(part, Tensor) for part in _flat((out,))):
            raise NotFactored(f"{named[0]} is taken apart by {_called(func)}")
        if isinstance(out, Tensor) and id(out) not in self._names:
            if func not in _KEEP_GRADIENT:
                raise NotFactored(f"{named[0]} goes through {_called(func)}")
            self._names[id(out)] = named[0]
            self._alive.append(out)
        return out

    def name(self, tensor: Tensor | None) -> str | None:
        """Of a trainable weight; None for anything else."""
        return self._names.get(id(tensor))

    def by_probe(self, tensor: Tensor) -> Tensor:
        """(B, T, last) of (B, …, last), or of (B · T, last) while rows are in their places."""
        flattened = tensor.dim() == 2 and not self._picked and tensor.shape[0] % self.size == 0
        if self.size > 1 and not flattened and (tensor.dim() < 3 or len(tensor) != self.size):
            raise NotFactored(f"an input of shape {tuple(tensor.shape)} has no batch dimension")
        return tensor.detach().reshape(self.size, -1, tensor.shape[-1])

    def expanded(self, ids: Tensor) -> Tensor:
        """Positions are looked up once for the whole batch; each probe needs its own."""
        return ids.expand(self.size, -1) if ids.dim() == 2 and ids.shape[0] == 1 else ids

    def _hooked(self, out: Tensor, backward: Backward) -> Tensor:
        if not torch.is_grad_enabled():
            raise NotFactored("a weight is used where autograd does not look")
        if not out.requires_grad:
            out = out.requires_grad_().clone()  # models may change it in place

        picked = self._picked

        def keep(gradient: Tensor) -> None:
            self._picked = picked  # as it was here, in the forward pass
            for name, use in backward(gradient).items():
                self.uses[name].append(use)

        handle: Any = out
        handle.register_hook(keep)
        return out


# --- what leaves factors --------------------------------------------------------------------------

# A rule takes the arguments of its function. It returns them, as they shall be used, and what makes
# uses of the gradient at the result: factors whose rows and columns are those of ``matrix_shape``.
Prepared = tuple[tuple[Any, ...], dict[str, Any], Backward]


def _affine(
    watch: _Watch, weight: Tensor | None, bias: Tensor | None, use: Callable[[Tensor], Use]
) -> Backward:
    """Of a weight that leaves ``use`` of the gradient (B, T, last), and a bias added to it."""

    def backward(gradient: Tensor) -> dict[str, Use]:
        out = watch.by_probe(gradient)
        uses: dict[str, Use] = {}
        if name := watch.name(weight):
            uses[name] = use(out)
        if name := watch.name(bias):
            uses[name] = Outer.row(out.sum(1))
        return uses

    return backward


def _linear(watch: _Watch, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Prepared:
    """y = x Wᵀ + b, W (out, in)."""
    backward = _affine(watch, weight, bias, lambda out: Outer(out, watch.by_probe(x)))
    return (x, weight, bias), {}, backward


def _addmm(watch: _Watch, bias: Tensor, x: Tensor, weight: Tensor) -> Prepared:
    """y = x W + b, W (in, out): GPT-2's Conv1D."""
    backward = _affine(watch, weight, bias, lambda out: Outer(watch.by_probe(x), out))
    return (bias, x, weight), {}, backward


def _embedding(
    watch: _Watch, ids: Tensor, weight: Tensor, padding_idx: int | None = None, *rest: Any,
    **named: Any,
) -> Prepared:  # fmt: skip
    ids = watch.expanded(ids)
    if len(ids) != watch.size:
        raise NotFactored(f"{watch.name(weight)} is looked up without a batch dimension")

    def backward(gradient: Tensor) -> dict[str, Use]:
        right = watch.by_probe(gradient)
        if padding_idx is not None:  # autograd leaves that row out
            right = right * (ids != padding_idx).reshape(*right.shape[:2], 1)
        return {str(watch.name(weight)): Lookup(ids.reshape(right.shape[:2]), right)}

    return (ids, weight, padding_idx, *rest), named, backward


def _layer_norm(
    watch: _Watch, x: Tensor, shape: Sequence[int], weight: Tensor | None = None,
    bias: Tensor | None = None, eps: float = 1e-5,
) -> Prepared:  # fmt: skip
    def use(out: Tensor) -> Use:
        return _scaled(watch, out, F.layer_norm(x, shape, eps=eps))

    return (x, shape, weight, bias, eps), {}, _affine(watch, weight, bias, use)


def _rms_norm(
    watch: _Watch, x: Tensor, shape: Sequence[int], weight: Tensor | None = None,
    eps: float | None = None,
) -> Prepared:  # fmt: skip
    def use(out: Tensor) -> Use:
        return _scaled(watch, out, F.rms_norm(x, shape, eps=eps))

    return (x, shape, weight, eps), {}, _affine(watch, weight, None, use)


def _gain(watch: _Watch, a: Any, b: Any) -> Prepared:
    """y = x ⊙ w along the last dimension: the end of an RMS norm written out."""
    weight, x = _along_last(watch, a, b)
    return (a, b), {}, _affine(watch, weight, None, lambda out: _scaled(watch, out, x))


def _bias(watch: _Watch, a: Any, b: Any) -> Prepared:
    """y = x + w along the last dimension."""
    weight, _ = _along_last(watch, a, b)
    return (a, b), {}, _affine(watch, weight, None, lambda out: Outer.row(out.sum(1)))


def _scaled(watch: _Watch, out: Tensor, x: Tensor) -> Use:
    """Of the gain of ``x``."""
    return Outer.row((out * watch.by_probe(x)).sum(1))


def _along_last(watch: _Watch, a: Any, b: Any) -> tuple[Tensor, Tensor]:
    """The weight of the two, and the other."""
    weight, x = (a, b) if watch.name(a) else (b, a)
    if weight.dim() != 1 or not isinstance(x, Tensor) or x.shape[-1] != len(weight):
        raise NotFactored(f"{watch.name(weight)} is combined with something of another shape")
    return weight, x


def _called(func: Any) -> str:
    return str(getattr(func, "__name__", func))


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        yield from value if isinstance(value, tuple | list) else (value,)


def _has_number(args: Sequence[Any]) -> bool:
    return any(isinstance(a, int | float) for a in args)


_PICKS = {Tensor.__getitem__, Tensor.index_select, torch.index_select, Tensor.gather, torch.gather}
_ADDITIONS = (torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__)
_PRODUCTS = (torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__)
_RULES: dict[Any, Callable[..., Prepared]] = {
    F.linear: _linear,
    torch.addmm: _addmm,
    F.embedding: _embedding,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    **dict.fromkeys(_PRODUCTS, _gain),
    **dict.fromkeys(_ADDITIONS, _bias),
}
# The gradient at what comes out is the weight's: another precision, and the w + 1 of Gemma's norms.
_KEEP_GRADIENT = {Tensor.to, Tensor.float, Tensor.double, Tensor.type_as, *_ADDITIONS}
