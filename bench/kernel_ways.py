"""Ways to the inner products of n gradients, each with the same arguments and result."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, grad, vmap

from lensllm.models.batch import Example, collate, token_losses
from lensllm.ntk import residual_kernel

BATCH_TOKENS = 1024
PAIRS = 8  # of all n (n + 1) / 2 the pairwise way is measured on these


@dataclass(frozen=True)
class Found:
    """What a way found, and the share of the whole that it did."""

    gram: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))  # (n, n)
    norms: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))  # of residuals, ours
    method: str = ""  # ours: what it chose
    reason: str = ""
    share: float = 1.0


def one_pass(model: Any, probes: list[Example]) -> Found:
    """The unit of all the others: one batch, forward and backward; it gives no kernel."""
    token_losses(model, collate(probes, model.config).to(model.device)).mean().backward()  # type: ignore[no-untyped-call]
    model.zero_grad()
    return Found()


def in_batches(model: Any, probes: list[Example]) -> Found:
    """The same with little padding: batches of alike lengths, which is how ours go through."""
    ordered = sorted(probes, key=len)
    while ordered:
        size = max(1, BATCH_TOKENS // len(ordered[-1]))
        batch = collate(ordered[-size:], model.config).to(model.device)
        token_losses(model, batch).mean().backward()  # type: ignore[no-untyped-call]
        del ordered[-size:]
    model.zero_grad()
    return Found()


def _gradient(model: Any, probe: Example) -> tuple[Tensor, ...]:
    loss = token_losses(model, collate([probe], model.config).to(model.device)).mean()
    return torch.autograd.grad(loss, list(model.parameters()))


def pairwise(model: Any, probes: list[Example]) -> Found:
    """Two backward passes for every pair, as the published code of LensLLM has it."""
    n = len(probes)
    for i in range(PAIRS):
        left, right = (_gradient(model, probes[j % n]) for j in (i, n - 1 - i))
        float(sum((a * b).sum() for a, b in zip(left, right, strict=True)))
    return Found(share=PAIRS / (n * (n + 1) / 2))


def loop(model: Any, probes: list[Example]) -> Found:
    """One backward pass for every probe into a row of J, then J Jᵀ."""
    width = sum(p.numel() for p in model.parameters())
    rows = torch.empty(len(probes), width, device=model.device)
    for row, probe in zip(rows, probes, strict=True):
        torch.cat([g.flatten() for g in _gradient(model, probe)], out=row)
    return Found((rows @ rows.T).double().cpu().numpy())


def by_vmap(model: Any, probes: list[Example]) -> Found:
    """vmap(grad) over all probes, padded to one length, then J Jᵀ weight by weight."""
    width = max(map(len, probes))
    ids = torch.tensor([list(_padded(e, width)) for e in probes], device=model.device)
    place = torch.arange(1, width, device=model.device)
    first = torch.tensor([len(e.prompt) for e in probes], device=model.device)[:, None]
    count = torch.tensor([len(e.completion) for e in probes], device=model.device)[:, None]
    weights = ((place >= first) & (place < first + count)) / count  # (n, width - 1)

    everywhere = torch.ones_like(ids[:1])  # vmap cannot look for padding

    def loss(parameters: dict[str, Tensor], row: Tensor, weight: Tensor) -> Tensor:
        inputs = {"input_ids": row[None], "attention_mask": everywhere, "use_cache": False}
        logits = functional_call(model, parameters, (), inputs).logits[0, :-1]
        return (F.cross_entropy(logits, row[1:], reduction="none") * weight).sum()

    parameters = {name: p.detach() for name, p in model.named_parameters()}
    model.set_attn_implementation("eager")  # vmap cannot batch the fused one
    gradients = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, ids, weights)
    rows = (g.flatten(1) for g in gradients.values())
    return Found(sum(r @ r.T for r in rows).double().cpu().numpy())


def _padded(example: Example, width: int) -> Iterator[int]:
    yield from (*example.prompt, *example.completion, *[0] * (width - len(example)))


def ours(model: Any, probes: list[Example], method: Any) -> Found:
    kernel = residual_kernel(model, probes, method=method)
    gram = kernel.matrix * np.outer(kernel.residual_norms, kernel.residual_norms)
    return Found(gram, kernel.residual_norms, kernel.computation.method, kernel.computation.reason)


WAYS: dict[str, Callable[[Any, list[Example]], Found]] = {
    "one pass": one_pass,
    "in batches": in_batches,
    "pairwise": pairwise,
    "vmap": by_vmap,
    "loop": loop,
    "exact": lambda model, probes: ours(model, probes, "exact"),
    "sketch": lambda model, probes: ours(model, probes, "sketch"),
    "auto": lambda model, probes: ours(model, probes, "auto"),
}
HOLD_GRADIENTS = ("vmap", "loop")  # of all probes at once
