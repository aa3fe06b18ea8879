"""Whether a folder holds a checkpoint we load; read without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lensllm.errors import ModelError

INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"
# Architectures that have this key for their learned positions; in others it binds nothing (T5).
_POSITIONS = dict.fromkeys(("gpt2", "gptj", "codegen", "gpt_bigcode", "openai-gpt"), "n_positions")
# What the classes of language models are called; all others with a head have another one.
_LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "MTModel")
# Their value may be a repository, whose kernels transformers would load.
_IMPLEMENTATIONS = ("attn_implementation", "_attn_implementation", "experts_implementation",
                    "_experts_implementation")  # fmt: skip
_SENSES = ("vision_config", "audio_config", "speech_config", "vision_tower")


def check(folder: Path, max_tokens: int) -> None:
    """Raise ``ModelError`` unless ``folder`` looks like a safetensors checkpoint.

    Examples of ``max_tokens`` must fit its learned positions, where it has such.
    """
    if not folder.is_dir():
        raise ModelError(f"candidates: no such folder: {folder}; give a transformers checkpoint")
    if not (folder / "config.json").is_file():
        raise ModelError(f"candidates: {folder} has no config.json; use save_pretrained")
    if not list(folder.glob("*.safetensors")):
        raise ModelError(
            f"candidates: {folder} has no .safetensors weights; save the model with "
            "save_pretrained (pickled .bin weights are never loaded)"
        )
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"candidates: {folder} holds adapters beside a model, and they may name any other; "
            "merge them into it, or take adapter_config.json out"
        )
    if missing := [name for name in shards(folder) if not (folder / name).is_file()]:
        raise ModelError(
            f"candidates: {folder} lacks {missing[0]}, which its {INDEX} names; "
            "copy or download it again"
        )
    check_settings(folder, max_tokens)


def shards(folder: Path) -> list[str]:
    """The files of weights that the index in ``folder`` names; none without an index.

    Raises ``ModelError`` for one that lies elsewhere or is not of safetensors.
    """
    if not (folder / INDEX).is_file():
        return []
    names = sorted(set(map(str, _read(folder / INDEX).get("weight_map", {}).values())))
    for name in names:
        if "/" in name or not name.endswith(".safetensors"):
            raise ModelError(
                f"candidates: the {INDEX} of {folder} names {name!r}; weights are read from "
                ".safetensors files beside it only"
            )
    return names


def check_settings(folder: Path, max_tokens: int) -> None:
    """Raise ``ModelError`` if the config.json in ``folder`` is of a model that we cannot rank."""
    settings = _read(folder / "config.json")
    kinds = [str(kind) for kind in settings.get("architectures") or ()]
    if any(sense in settings for sense in _SENSES):
        raise ModelError(
            f"candidates: {folder} is a model of more than text ({_kind(settings, kinds)}); "
            "take a text-only checkpoint of its family"
        )
    if stray := [k for k in kinds if "For" in k and not k.endswith(_LANGUAGE_MODELS)]:
        raise ModelError(
            f"candidates: {folder} is a {stray[0]}, which has no language-model head and writes no "
            "text; take a causal or encoder-decoder language model"
        )
    if "quantization_config" in settings:
        method = (settings["quantization_config"] or {}).get("quant_method", "unknown")
        raise ModelError(
            f"candidates: {folder} has quantised weights ({method}), which cannot be fine-tuned; "
            "take the checkpoint that they were made from"
        )
    for key in _IMPLEMENTATIONS:
        if "/" in str(settings.get(key)):
            raise ModelError(
                f"candidates: {folder} asks for code from the hub ({key}: {settings[key]}), which "
                "is never run; take that key out of its config.json"
            )
    context = settings.get(_POSITIONS.get(family(folder), "max_position_embeddings"))
    if isinstance(context, int) and 0 < context < max_tokens:
        raise ModelError(
            f"candidates: {folder} reads at most {context} tokens and data.max_tokens is "
            f"{max_tokens}; lower it to {context} for all, or leave the candidate out"
        )


def family(folder: Path) -> str:
    """The architecture by its transformers name, of a checked folder; empty where it has none."""
    return str(_read(folder / "config.json").get("model_type") or "")


def _kind(settings: dict[str, Any], kinds: list[str]) -> str:
    return kinds[0] if kinds else str(settings.get("model_type", "unknown"))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ModelError(f"candidates: {path} is not JSON; download it again")
    return content
