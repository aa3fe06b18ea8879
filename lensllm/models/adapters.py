"""Low-rank adapters (Hu et al. 2021): W x + (alpha / r) · B A x for linear layers, W frozen.

The head, embeddings, routers and fused experts have none.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lensllm.config.sections import Lora
from lensllm.core.errors import ModelError

# Maps that choose an expert: their adapters would move whole experts.
_ROUTERS = ("classifier", "router", "gate", "shared_expert_gate")
# Layers whose fused kernels read the weight itself, past any adapter.
_FUSED = dict.fromkeys(("mamba", "mamba2", "falcon_mamba", "falcon_h1"), ("out_proj",))
_PREFIX = "base_model.model."  # what peft puts before the names of a model's weights


def add(model: Any, settings: Lora, seed: int) -> Any:
    """``model`` on the CPU with adapters, the only trainable weights, in float32.

    A is drawn from ``seed`` and B is 0. Raises ``ModelError`` if there is no linear layer.
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
    """(alpha / r) · B A by the name of the weight it is added to, in float32 on the CPU."""
    # Merged weights less frozen ones would have lost digits.
    from peft.tuners.lora import LoraLayer

    found = {}
    for path, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            difference: Tensor = layer.get_delta_weight("default")
            name = f"{path.removeprefix(_PREFIX)}.weight"
            found[name] = difference.detach().float().cpu().contiguous()
    return found
