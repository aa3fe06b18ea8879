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
# Architectures whose number of learned positions is n_positions; in others the key binds nothing.
_POSITIONS = dict.fromkeys(("gpt2", "gptj", "codegen", "gpt_bigcode", "openai-gpt"), "n_positions")
# Ends of the names of classes of language models.
_LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "MTModel")
# Keys whose value may be a repository, whose kernels transformers would load.
_IMPLEMENTATIONS = ("attn_implementation", "_attn_implementation", "experts_implementation",
                    "_experts_implementation")  # fmt: skip
# The largest files of tokenizers have 40 MB.
_MOST_BYTES = {
    **dict.fromkeys(("config.json", "generation_config.json", "special_tokens_map.json"), 2**22),
    **dict.fromkeys(("tokenizer_config.json", "added_tokens.json", INDEX), 2**25),
    **dict.fromkeys(("chat_template.jinja", "chat_template.json"), 2**20),
    **dict.fromkeys(("tokenizer.json", "vocab.json", "merges.txt"), 2**27),
    **dict.fromkeys(("tokenizer.model", "spiece.model"), 2**27),
}
_OBJECTS = ("generation_config.json", "special_tokens_map.json", "tokenizer_config.json",
            "added_tokens.json")  # fmt: skip
# A configuration that claims at most this many weights does no harm.
_HARMLESS_WEIGHTS = 10**8
_SENSES = ("vision_config", "audio_config", "speech_config", "vision_tower")


def check(folder: Path, max_tokens: int) -> None:
    """Raise ``ModelError`` unless ``folder`` is a safetensors checkpoint for ``max_tokens``."""
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
    """Number of weights by a .safetensors file's header. Raises ``ModelError`` if it is wrong."""
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
    """Raise ``ModelError`` if the files hold far fewer weights than ``claimed``."""
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
    settings = _read(folder / "config.json")
    return limits.weights(settings, f"candidates: {folder}") > _HARMLESS_WEIGHTS


def shards(folder: Path) -> list[str]:
    """The files of weights that the index in ``folder`` names; none without an index."""
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
    """Raise ``ModelError`` if the config.json in ``folder`` is of a model that cannot be ranked."""
    for name, most in _MOST_BYTES.items():  # of files that are read whole
        path = folder / name
        if path.is_file() and (size := path.stat().st_size) > most:
            raise ModelError(
                f"candidates: {path} has {size:,} bytes, of at most {most:,}; download it again"
            )
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
        kind = kinds[0] if kinds else settings.get("model_type", "unknown")
        raise ModelError(
            f"candidates: {folder} is a model of more than text ({short(kind)}); "
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
    limits.check_context(context, max_tokens, f"candidates: {folder}")


def family(folder: Path) -> str:
    """Transformers' name of the architecture in a checked folder; empty if it has none."""
    return short(_read(folder / "config.json").get("model_type") or "")


def generation(folder: Path) -> dict[str, Any]:
    """The settings of generation_config.json; none without one."""
    path = folder / "generation_config.json"
    return _read(path) if path.is_file() else {}


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
