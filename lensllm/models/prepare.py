"""A candidate prepared for fine-tuning: precision, attention and adapters."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lensllm.config.sections import FineTune
from lensllm.core.errors import ModelError
from lensllm.models import adapters, load


@dataclass(frozen=True)
class RunSettings:
    """Precision and attention of a candidate, with reasons."""

    dtype: torch.dtype  # dtype of matrix products
    precision: str  # the dtype and its reason
    implementation: str  # of attention, by transformers' name
    attention: str  # the implementation and its reason


@dataclass(frozen=True)
class Prepared(RunSettings):
    """A candidate ready for fine-tuning, on the CPU and in evaluation mode."""

    model: Any  # trainable weights are float32


def choose_settings(
    config: Any, weights: int, settings: FineTune, device: torch.device
) -> RunSettings:
    """Run settings of a model of the transformers ``config``, before its weights are read.

    Raises ``ModelError`` if the configured attention cannot be used.
    """
    dtype, precision = choose_precision(settings.precision, weights, device)
    kind = load.model_class(config)
    implementation, why = choose_attention(settings.attention, kind, device, dtype)
    if settings.method == "lora" and dtype != torch.float32:
        precision += ", which also halves the frozen weights"
    return RunSettings(dtype, precision, implementation, why)


def prepare(folder: Path, settings: FineTune, seed: int, device: torch.device) -> Prepared:
    """Load the model in ``folder`` for fine-tuning on ``device``; it is still on the CPU.

    Weights below adapters are kept in the dtype that every product would round them to. ``seed``
    draws the adapters' first weights.
    """
    config = load.load_config(folder)
    with torch.device("meta"):
        weights = load.count_parameters(load.from_config(config))
    chosen = choose_settings(config, weights, settings, device)
    frozen = chosen.dtype if settings.method == "lora" else torch.float32
    model = load.load_model(folder, attention=chosen.implementation, dtype=frozen)
    if settings.method == "lora":
        model = adapters.add(model, settings.lora, seed)
    return Prepared(**vars(chosen), model=model)


# Below this many weights bfloat16 loses on every device measured (0.44 x at 1M weights on CPU).
BFLOAT16_PAYS_FROM = 2_000_000


def choose_precision(wanted: str, parameters: int, device: torch.device) -> tuple[torch.dtype, str]:
    """The dtype of matrix products (weights stay float32) and the reason for it."""
    if wanted != "auto":
        return getattr(torch, wanted), f"{wanted}: configured"
    if parameters < BFLOAT16_PAYS_FROM:
        return torch.float32, "float32: bfloat16 does not pay below 2M weights"
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        fast = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    else:
        fast = False
    if fast:
        return torch.bfloat16, f"bfloat16: {device.type} multiplies it in hardware"
    return torch.float32, f"float32: no fast bfloat16 on this {device.type}"


def choose_attention(
    wanted: str, kind: Any, device: torch.device, dtype: torch.dtype
) -> tuple[str, str]:
    """Attention implementation, by transformers' name, for models of class ``kind``; the reason.

    ``dtype`` is that of the matrix products. Raises ``ModelError`` if ``wanted`` is unavailable.
    """
    fused = bool(getattr(kind, "_supports_sdpa", False))
    if wanted == "auto":
        if fused:
            return "sdpa", f"sdpa: {kind.__name__} has PyTorch's fused attention"
        return "eager", f"eager: {kind.__name__} has no fused attention of PyTorch's"
    if wanted == "sdpa" and not fused:
        raise _refused(wanted, f"{kind.__name__} has none")
    if wanted == "flash_attention_2":
        if not getattr(kind, "_supports_flash_attn", False):
            raise _refused(wanted, f"{kind.__name__} has none")
        if device.type != "cuda":
            raise _refused(wanted, f"it needs a CUDA device and this is {device.type}")
        if dtype == torch.float32:
            raise _refused(wanted, "it computes in bfloat16 only and finetune.precision is float32")
        if not importlib.util.find_spec("flash_attn"):
            raise _refused(wanted, "the package flash-attn is not installed")
    return wanted, f"{wanted}: configured"


def _refused(wanted: str, why: str) -> ModelError:
    return ModelError(f"finetune.attention is {wanted}, but {why}; set finetune.attention=auto")
