"""A candidate as its recipe wants it: dtype, attention and adapters, and the reason for each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lensllm.config.sections import FineTune
from lensllm.models import adapters, attention, load


@dataclass(frozen=True)
class Prepared:
    """A model on the CPU, in evaluation mode."""

    model: Any
    dtype: torch.dtype  # of matrix products; trainable weights are float32
    precision: str  # why so
    attention: str  # which, and why


@dataclass(frozen=True)
class Choice:
    """What a candidate would run with."""

    dtype: torch.dtype
    precision: str
    implementation: str
    attention: str


def choose(config: Any, weights: int, recipe: FineTune, device: torch.device) -> Choice:
    """For a model of the transformers ``config`` with so many weights, before they are read."""
    dtype, precision = load.choose_precision(recipe.precision, weights, device)
    kind = load.model_class(config)
    implementation, why = attention.choose(recipe.attention, kind, device, dtype)
    if recipe.method == "lora" and dtype != torch.float32:
        precision += ", which also halves the frozen weights"
    return Choice(dtype, precision, implementation, why)


def prepare(folder: Path, recipe: FineTune, seed: int, device: torch.device) -> Prepared:
    """The model in ``folder`` to be fine-tuned on ``device``, still on the CPU; ``seed`` is that of
    the adapters' first weights.

    Weights that are trained are float32. Those below adapters are never updated, so the bfloat16
    that every product would round them to anyway is all that is kept of them.
    """
    config = load.load_config(folder)
    with torch.device("meta"):
        weights = load.count_parameters(load.from_config(config))
    chosen = choose(config, weights, recipe, device)
    frozen = chosen.dtype if recipe.method == "lora" else torch.float32
    model = load.load_model(folder, attention=chosen.implementation, dtype=frozen)
    if recipe.method == "lora":
        model = adapters.add(model, recipe.lora, seed)
    return Prepared(model, chosen.dtype, chosen.precision, chosen.attention)
