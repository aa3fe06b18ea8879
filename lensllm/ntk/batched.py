"""Gradients of many examples from one batched pass, as factors.

The forward pass records every use of a trainable weight by a torch function. Of a linear map, a
lookup, a gain or a bias it keeps the input, and by a hook the gradient at the output; no gradient
of a weight is computed. Any other use is refused.
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
from lensllm.ntk.factors import Lookup, Outer, Use, mean_losses

# Maps the gradient at the output of a function (B, …) to the uses of its weights, by name.
Backward = Callable[[Tensor], dict[str, Use]]


class NotFactored(Exception):
    """A weight is used in a way that has no factors; the message says which and how."""


def batched_gradients(
    model: Any, weights: Mapping[str, Tensor], examples: Sequence[Example]
) -> tuple[dict[str, list[Use]], Tensor]:
    """All uses of every weight by the examples, by name, and their residual norms (B,).

    Raises ``NotFactored``.
    """
    with _frozen(weights):
        recorder = _Recorder(weights, len(examples))
        with recorder:
            loss, norms = mean_losses(model, examples)
        if not loss.requires_grad:
            raise NotFactored("the loss has no gradient")
        torch.autograd.backward(loss.sum())
    return recorder.uses, norms


@contextmanager
def _frozen(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Context in which gradients flow to activations only."""
    for weight in weights.values():
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights.values():
            weight.requires_grad_(True)


class _Recorder(TorchFunctionMode):
    """Records the torch functions that take a weight as an argument."""

    def __init__(self, weights: Mapping[str, Tensor], size: int) -> None:
        super().__init__()
        self.uses: dict[str, list[Use]] = {name: [] for name in weights}
        self._names = {id(weight): name for name, weight in weights.items()}
        self._alive: list[Tensor] = []  # keeps ids from being given to other tensors
        self.size = size
        self._picked = False  # rows were picked by index, as experts do

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _PICKS and args and isinstance(args[0], Tensor) and args[0].requires_grad:
            self._picked = self._picked or any(isinstance(a, Tensor) for a in _flat(args[1:]))
        given = _flat((*args, *kwargs.values()))
        named = [self._names[id(a)] for a in given if id(a) in self._names]
        if not named:
            return func(*args, **kwargs)
        adds_number = func in _KEEP_GRADIENT and any(isinstance(a, int | float) for a in args)
        if func in _RULES and not adds_number:
            try:
                args, kwargs, backward = _RULES[func](self, *args, **kwargs)
            except TypeError:  # arguments that a rule does not know, such as a factor
                raise NotFactored(f"{named[0]} is used by an unusual {_called(func)}") from None
            return self._hooked(func(*args, **kwargs), backward)
        out = func(*args, **kwargs)
        if not isinstance(out, Tensor):
            if any(isinstance(part, Tensor) for part in _flat((out,))):
                raise NotFactored(f"{named[0]} is taken apart by {_called(func)}")
        elif id(out) not in self._names:
            if func not in _KEEP_GRADIENT:
                raise NotFactored(f"{named[0]} goes through {_called(func)}")
            self._names[id(out)] = named[0]
            self._alive.append(out)
        return out

    def name(self, tensor: Tensor | None) -> str | None:
        """Name of a trainable weight; None for any other tensor."""
        return self._names.get(id(tensor))

    def by_example(self, tensor: Tensor) -> Tensor:
        """Reshape (B, …, last), or (B · T, last) while no rows were picked, to (B, T, last)."""
        flattened = tensor.dim() == 2 and not self._picked and tensor.shape[0] % self.size == 0
        if self.size > 1 and not flattened and (tensor.dim() < 3 or len(tensor) != self.size):
            raise NotFactored(f"an input of shape {tuple(tensor.shape)} has no batch dimension")
        return tensor.detach().reshape(self.size, -1, tensor.shape[-1])

    def _hooked(self, out: Tensor, backward: Backward) -> Tensor:
        if not torch.is_grad_enabled():
            raise NotFactored("a weight is used where autograd does not look")
        if not out.requires_grad:
            out = out.requires_grad_().clone()  # models may change it in place

        picked = self._picked

        def keep(gradient: Tensor) -> None:
            self._picked = picked  # as at this point of the forward pass
            for name, use in backward(gradient).items():
                self.uses[name].append(use)

        handle: Any = out
        handle.register_hook(keep)
        return out


# Positional and keyword arguments to call the function with, and the ``Backward`` of the call.
Recorded = tuple[tuple[Any, ...], dict[str, Any], Backward]


def _affine(
    recorder: _Recorder, weight: Tensor | None, bias: Tensor | None, use: Callable[[Tensor], Use]
) -> Backward:
    """Backward of a weight, by ``use`` of the gradient (B, T, last), and of a bias added to it."""

    def backward(gradient: Tensor) -> dict[str, Use]:
        out = recorder.by_example(gradient)
        uses: dict[str, Use] = {}
        if name := recorder.name(weight):
            uses[name] = use(out)
        if name := recorder.name(bias):
            uses[name] = Outer.row(out.sum(1))
        return uses

    return backward


def _linear(recorder: _Recorder, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Recorded:
    """y = x Wᵀ + b, W (out, in)."""
    backward = _affine(recorder, weight, bias, lambda out: Outer(out, recorder.by_example(x)))
    return (x, weight, bias), {}, backward


def _addmm(recorder: _Recorder, bias: Tensor, x: Tensor, weight: Tensor) -> Recorded:
    """y = x W + b, W (in, out): GPT-2's Conv1D."""
    backward = _affine(recorder, weight, bias, lambda out: Outer(recorder.by_example(x), out))
    return (bias, x, weight), {}, backward


def _embedding(
    recorder: _Recorder, ids: Tensor, weight: Tensor, padding_idx: int | None = None, *rest: Any,
    **named: Any,
) -> Recorded:  # fmt: skip
    if ids.dim() == 2 and ids.shape[0] == 1:  # looked up once for all examples, as positions are
        ids = ids.expand(recorder.size, -1)
    if len(ids) != recorder.size:
        raise NotFactored(f"{recorder.name(weight)} is looked up without a batch dimension")

    def backward(gradient: Tensor) -> dict[str, Use]:
        right = recorder.by_example(gradient)
        if padding_idx is not None:  # autograd leaves that row out
            right = right * (ids != padding_idx).reshape(*right.shape[:2], 1)
        return {str(recorder.name(weight)): Lookup(ids.reshape(right.shape[:2]), right)}

    return (ids, weight, padding_idx, *rest), named, backward


def _layer_norm(
    recorder: _Recorder, x: Tensor, shape: Sequence[int], weight: Tensor | None = None,
    bias: Tensor | None = None, eps: float = 1e-5,
) -> Recorded:  # fmt: skip
    backward = _gain(recorder, weight, bias, lambda: F.layer_norm(x, shape, eps=eps))
    return (x, shape, weight, bias, eps), {}, backward


def _rms_norm(
    recorder: _Recorder, x: Tensor, shape: Sequence[int], weight: Tensor | None = None,
    eps: float | None = None,
) -> Recorded:  # fmt: skip
    backward = _gain(recorder, weight, None, lambda: F.rms_norm(x, shape, eps=eps))
    return (x, shape, weight, eps), {}, backward


def _product(recorder: _Recorder, a: Any, b: Any) -> Recorded:
    """y = x ⊙ w along the last dimension: the end of an RMS norm written out."""
    weight, x = _along_last(recorder, a, b)
    return (a, b), {}, _gain(recorder, weight, None, lambda: x)


def _sum(recorder: _Recorder, a: Any, b: Any) -> Recorded:
    """y = x + w along the last dimension."""
    weight, _ = _along_last(recorder, a, b)
    return (a, b), {}, _affine(recorder, weight, None, lambda out: Outer.row(out.sum(1)))


def _gain(
    recorder: _Recorder, weight: Tensor | None, bias: Tensor | None, x: Callable[[], Tensor]
) -> Backward:
    """Backward of a gain that multiplies ``x()``, and of a bias added to it."""
    return _affine(
        recorder, weight, bias, lambda out: Outer.row((out * recorder.by_example(x())).sum(1))
    )


def _along_last(recorder: _Recorder, a: Any, b: Any) -> tuple[Tensor, Tensor]:
    """The weight among ``a`` and ``b``, and the other operand."""
    weight, x = (a, b) if recorder.name(a) else (b, a)
    if weight.dim() != 1 or not isinstance(x, Tensor) or x.shape[-1] != len(weight):
        raise NotFactored(f"{recorder.name(weight)} is combined with something of another shape")
    return weight, x


def _called(func: Any) -> str:
    return str(getattr(func, "__name__", func))


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        yield from value if isinstance(value, tuple | list) else (value,)


_PICKS = {Tensor.__getitem__, Tensor.index_select, torch.index_select, Tensor.gather, torch.gather}
_ADDITIONS = (torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__)
_PRODUCTS = (torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__)
_RULES: dict[Any, Callable[..., Recorded]] = {
    F.linear: _linear,
    torch.addmm: _addmm,
    F.embedding: _embedding,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    **dict.fromkeys(_PRODUCTS, _product),
    **dict.fromkeys(_ADDITIONS, _sum),
}
# Functions whose output's gradient is the weight's: casts, and the w + 1 of Gemma's norms.
_KEEP_GRADIENT = {Tensor.to, Tensor.float, Tensor.double, Tensor.type_as, *_ADDITIONS}
