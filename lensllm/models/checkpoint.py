"""Whether a folder holds a checkpoint we load; read without torch."""

from __future__ import annotations

import json
from pathlib import Path

from lensllm.errors import ModelError


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
    try:
        settings = json.loads((folder / "config.json").read_text())
    except ValueError:
        raise ModelError(f"candidates: {folder}/config.json is not JSON") from None
    context = settings.get("max_position_embeddings")
    if settings.get("model_type") == "gpt2":  # T5 has the same key, and relative positions
        context = settings.get("n_positions")
    if context and context < max_tokens:
        raise ModelError(
            f"candidates: {folder} reads at most {context} tokens and data.max_tokens is "
            f"{max_tokens}; lower it to {context} for all, or leave the candidate out"
        )


def family(folder: Path) -> str:
    """The architecture by its transformers name, of a checked folder; empty where it has none."""
    settings = json.loads((folder / "config.json").read_text())
    return str(settings.get("model_type", ""))
