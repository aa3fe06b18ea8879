"""Which implementation of attention a model runs with, and why."""

from __future__ import annotations

import importlib.util
from typing import Any, Literal

import torch

from lensllm.core.errors import ModelError

Wanted = Literal["auto", "eager", "sdpa", "flash_attention_2"]


def choose(wanted: str, kind: Any, device: torch.device, dtype: torch.dtype) -> tuple[str, str]:
    """The implementation, as transformers calls it, for models of class ``kind``, and the reason.

    ``dtype`` is that of the matrix products. Raises ``ModelError`` where ``wanted`` cannot be.
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
