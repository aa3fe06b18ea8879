"""The trace of every layer's Hessian block from random probes (Hutchinson 1989)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lensllm.core import seeds
from lensllm.hessian.lanczos import Product, inner


@dataclass(frozen=True)
class Trace:
    """An unbiased estimate and its standard error."""

    value: float
    stderr: float  # NaN for a single probe


def rademacher(like: Tensor, seed: int, purpose: str, *indices: int | str) -> Tensor:
    """Independent signs ±1 of ``like``'s shape, dtype and device."""
    signs = seeds.generator(seed, purpose, *indices).integers(0, 2, len(like), dtype=np.int8)
    return torch.from_numpy(signs).to(like) * 2 - 1


def traces(
    product: Product, shapes: Mapping[str, Tensor], probes: int, seed: int
) -> dict[str, Trace]:
    """tr H_i of every layer: the mean of zᵀH_i z over ``probes`` sign vectors z.

    ``shapes`` holds one flat tensor per layer whose size, dtype and device the probes take.
    """
    forms: dict[str, list[float]] = {layer: [] for layer in shapes}
    for probe in range(probes):
        signs = {n: rademacher(s, seed, "trace", n, probe) for n, s in shapes.items()}
        for layer, image in product(signs).items():
            forms[layer].append(inner(signs[layer], image))
    return {layer: _mean(values) for layer, values in forms.items()}


def _mean(values: list[float]) -> Trace:
    if len(values) < 2:
        return Trace(values[0], math.nan)
    return Trace(float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values))))
