"""Load a candidate: safetensors only, no remote code, float32 master weights, the best device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)

from lensllm.errors import ModelError

# Below this many weights bfloat16 loses on every device measured (0.44 x at 1M weights on CPU).
BFLOAT16_PAYS_FROM = 2_000_000


def load_model(folder: Path) -> Any:
    """The causal or encoder-decoder model in ``folder``, float32, in evaluation mode.

    Raises ``ModelError`` when the folder holds no loadable safetensors checkpoint, or one with NaN.
    """
    config = load_config(folder)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    try:
        model = auto.from_pretrained(
            folder, config=config, dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
    except Exception as error:  # safetensors and the architectures each raise their own
        raise ModelError(f"{folder} cannot be loaded: {_first_line(error)}") from error
    if name := weight_not_finite(model):
        raise ModelError(f"{folder} is damaged: its weight {name} is not finite; get it again")
    return model.eval()


def weight_not_finite(model: Any) -> str:
    """The name of the first weight with NaN or infinity; empty when there is none."""
    return next((n for n, weight in model.named_parameters() if not weight.isfinite().all()), "")


def from_config(config: Any) -> Any:
    """A float32 model with fresh weights; inside ``torch.device("meta")`` it takes no memory."""
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    return auto.from_config(config, dtype=torch.float32)


def load_config(folder: Path) -> Any:
    """The transformers configuration in ``folder``."""
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: {_first_line(error)}") from error


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in ``folder``; it must have an end-of-text token to end completions with."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: {_first_line(error)}") from error
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{folder}: its tokenizer has no end-of-text token; set eos_token")
    return tokenizer


def choose_device(wanted: str) -> torch.device:
    """``auto`` takes CUDA, then Apple's MPS, then the CPU."""
    if wanted == "auto":
        if torch.cuda.is_available():
            wanted = "cuda"
        else:
            wanted = "mps" if torch.backends.mps.is_available() else "cpu"
    elif wanted == "cuda" and not torch.cuda.is_available():
        raise ModelError("engine.device: no CUDA device here; set engine.device=auto or cpu")
    elif wanted == "mps" and not torch.backends.mps.is_available():
        raise ModelError("engine.device: no MPS device here; set engine.device=auto or cpu")
    return torch.device(wanted)


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


def count_parameters(model: Any) -> int:
    """Distinct weights; a tied head counts once."""
    return sum(p.numel() for p in model.parameters())


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
