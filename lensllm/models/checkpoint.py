"""Checks that a folder holds a checkpoint that can be loaded; done without torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from lensllm.core.errors import ModelError
from lensllm.core.untrusted import UnreadableError, read_json, short, shown
from lensllm.models import limits

INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"
# Architectures that have this key for their learned positions; in others it binds nothing (T5).
_POSITIONS = dict.fromkeys(("gpt2", "gptj", "codegen", "gpt_bigcode", "openai-gpt"), "n_positions")
# What the classes of language models are called; all others with a head have another one.
_LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "MTModel")
# Their value may be a repository, whose kernels transformers would load.
_IMPLEMENTATIONS = ("attn_implementation", "_attn_implementation", "experts_implementation",
                    "_experts_implementation")  # fmt: skip
# The largest files of tokenizers have 40 MB; those that are read by Python are to be smaller.
_MOST_BYTES = {
    "config.json": 2**22,
    "generation_config.json": 2**22,
    "special_tokens_map.json": 2**22,
    "tokenizer_config.json": 2**25,
    "added_tokens.json": 2**25,
    INDEX: 2**25,
    "chat_template.jinja": 2**20,
    "chat_template.json": 2**20,
    "tokenizer.json": 2**27,
    "vocab.json": 2**27,
    "merges.txt": 2**27,
    "tokenizer.model": 2**27,
    "spiece.model": 2**27,
}
_OBJECTS = ("generation_config.json", "special_tokens_map.json", "tokenizer_config.json",
            "added_tokens.json")  # fmt: skip
# Up to here a file that holds less than its configuration says does no harm before it is found out.
_HARMLESS_WEIGHTS = 10**8
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
    for path in sorted(folder.glob("*.safetensors")):
        weights_in(path)


def weights_in(path: Path) -> int:
    """Count the weights of a .safetensors file by its header.

    Raises ``ModelError`` where that contradicts itself or the file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            shapes = (file.get_slice(name).get_shape() for name in file.keys())  # noqa: SIM118
            return sum(map(math.prod, shapes))
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"candidates: {path} cannot be loaded: {short(error, 200)}; download it again"
        ) from None


def check_weights(folder: Path, claimed: int) -> None:
    """Raise ``ModelError`` if the files hold far fewer weights than the ``claimed`` ones, all of
    which would be allocated."""
    if claimed <= _HARMLESS_WEIGHTS:
        return
    held = sum(map(weights_in, folder.glob("*.safetensors")))
    if claimed > 2 * held:
        raise ModelError(
            f"candidates: {folder} has a config.json for {claimed:,} weights and files with "
            f"{held:,}; they do not belong together, download it again"
        )


def may_claim_too_much(folder: Path) -> bool:
    """True if config.json may claim so many weights that ``check_weights`` is worth its time."""
    where = f"candidates: {folder}"
    return limits.weights(_read(folder / "config.json"), where) > _HARMLESS_WEIGHTS


def shards(folder: Path) -> list[str]:
    """The files of weights that the index in ``folder`` names; none without an index.

    Raises ``ModelError`` for one that lies elsewhere or is not of safetensors.
    """
    if not (folder / INDEX).is_file():
        return []
    named = _read(folder / INDEX).get("weight_map")
    if not isinstance(named, dict):
        raise ModelError(
            f"candidates: the {INDEX} of {folder} has no weight_map; download it again"
        )
    names = sorted({short(name, 255) for name in named.values()})
    for name in names:
        if "/" in name or not name.endswith(".safetensors"):
            raise ModelError(
                f"candidates: the {INDEX} of {folder} names {name!r}; weights are read from "
                ".safetensors files beside it only"
            )
    return names


def check_settings(folder: Path, max_tokens: int) -> None:
    """Raise ``ModelError`` if the config.json in ``folder`` is of a model that we cannot rank."""
    _check_sizes(folder)
    settings = _read(folder / "config.json")
    limits.check(settings, f"candidates: {folder}")
    for name in _OBJECTS:
        if (folder / name).is_file():
            _read(folder / name)
    kinds = settings.get("architectures") or []
    if not isinstance(kinds, list) or not isinstance(settings.get("model_type", ""), str):
        raise ModelError(
            f"candidates: {folder}: architectures of its config.json must be a list and model_type "
            "a text; download it again"
        )
    kinds = [str(kind) for kind in kinds]
    if any(sense in settings for sense in _SENSES):
        raise ModelError(
            f"candidates: {folder} is a model of more than text ({_kind(settings, kinds)}); "
            "take a text-only checkpoint of its family"
        )
    if stray := [k for k in kinds if "For" in k and not k.endswith(_LANGUAGE_MODELS)]:
        raise ModelError(
            f"candidates: {folder} is a {short(stray[0])}, which has no language-model head and "
            "writes no text; take a causal or encoder-decoder language model"
        )
    if "quantization_config" in settings:
        quantised = settings["quantization_config"]
        method = quantised.get("quant_method") if isinstance(quantised, dict) else None
        raise ModelError(
            f"candidates: {folder} has quantised weights ({short(method or 'unknown')}), which "
            "cannot be fine-tuned; take the checkpoint that they were made from"
        )
    for key in _IMPLEMENTATIONS:
        if "/" in str(settings.get(key)):
            raise ModelError(
                f"candidates: {folder} asks for code from the hub ({key}: "
                f"{short(settings[key])}), which is never run; take that key out of its config.json"
            )
    context = settings.get(_POSITIONS.get(family(folder), "max_position_embeddings"))
    if isinstance(context, int) and 0 < context < max_tokens:
        raise ModelError(
            f"candidates: {folder} reads at most {context} tokens and data.max_tokens is "
            f"{max_tokens}; lower it to {context} for all, or leave the candidate out"
        )


def family(folder: Path) -> str:
    """The architecture by its transformers name, of a checked folder; empty where it has none."""
    return short(_read(folder / "config.json").get("model_type") or "")


def generation(folder: Path) -> dict[str, Any]:
    """The settings of generation_config.json; none without one."""
    path = folder / "generation_config.json"
    return _read(path) if path.is_file() else {}


def _kind(settings: dict[str, Any], kinds: list[str]) -> str:
    return short(kinds[0]) if kinds else short(settings.get("model_type", "unknown"))


def _check_sizes(folder: Path) -> None:
    """Raise ``ModelError`` for a file that is read whole and larger than any such file is."""
    for name, most in _MOST_BYTES.items():
        path = folder / name
        if path.is_file() and (size := path.stat().st_size) > most:
            raise ModelError(
                f"candidates: {path} has {size:,} bytes, of at most {most:,}; download it again"
            )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path, _MOST_BYTES[path.name])
    except OSError as error:
        raise ModelError(f"candidates: {path} cannot be read: {error.strerror}") from None
    except (UnreadableError, UnicodeDecodeError) as error:
        raise ModelError(
            f"candidates: {path} is not JSON ({short(error, 200)}); download it again"
        ) from None
    if not isinstance(content, dict):
        raise ModelError(
            f"candidates: {path} is not JSON of an object, but {shown(content)}; download it again"
        )
    return content
