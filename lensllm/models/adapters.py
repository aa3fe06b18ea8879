"""Low-rank adapters (Hu et al. 2021): W x + (alpha / r) · B A x for linear layers, W frozen.

Added by peft. The head and all embeddings have none, tied or not; nor have routers of a mixture of
experts, nor its experts where their weights are fused into one tensor that no linear layer holds.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lensllm.config.sections import Lora
from lensllm.core.errors import ModelError

# Which expert a token goes to: a small map whose adapter would move whole experts.
_ROUTERS = ("classifier", "router", "gate", "shared_expert_gate")
# Their fused kernels read the weight itself, past any adapter.
_FUSED = dict.fromkeys(("mamba", "mamba2", "falcon_mamba", "falcon_h1"), ("out_proj",))
_NAME = "default"
_PREFIX = "base_model.model."  # what peft puts before the names of a model's weights


def add(model: Any, settings: Lora, seed: int) -> Any:
    """``model`` with adapters, the only weights that can be trained, in float32.

    A is drawn from ``seed`` alone and B is 0, so the model computes what it did. Call it before the
    model is moved to another device. Raises ``ModelError`` where there is no linear layer.
    """
    from peft import LoraConfig, get_peft_model

    targets = adaptable(model)
    if not targets:
        raise ModelError(
            f"{type(model).__name__} has no linear layer for an adapter; "
            "set finetune.method=full for this candidate"
        )
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in model.modules()),
        bias="none",
    )
    mode = model.training
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft asks for a property that transformers has given another name
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config)  # its adapters are float32 whatever the model is
    return adapted.train(mode)


def adaptable(model: Any) -> list[str]:
    """Paths of the linear layers of ``model`` that get an adapter."""
    head = model.get_output_embeddings()
    without = (*_ROUTERS, *_FUSED.get(getattr(model.config, "model_type", ""), ()))
    return [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and module is not head
        and path.rpartition(".")[2] not in without
    ]


def is_adapted(model: Any) -> bool:
    """True if ``model`` has adapters, as ``add`` makes them."""
    return hasattr(model, "peft_config")


def merged_difference(model: Any) -> dict[str, Tensor]:
    """(alpha / r) · B A by the name of the weight it is added to when merged, float32 on the CPU.

    Not merged weights less frozen ones: that difference would have lost the digits of a small
    change to a large weight.
    """
    from peft.tuners.lora import LoraLayer

    return {
        f"{path.removeprefix(_PREFIX)}.weight": _difference(layer)
        for path, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
    }


def _difference(layer: Any) -> Tensor:
    difference: Tensor = layer.get_delta_weight(_NAME)
    return difference.detach().float().cpu().contiguous()
