"""Whether a folder holds a checkpoint we load; read without torch."""

from __future__ import annotations

from pathlib import Path

from lensllm.errors import ModelError


def check(folder: Path) -> None:
    """Raise ``ModelError`` unless ``folder`` looks like a safetensors checkpoint."""
    if not folder.is_dir():
        raise ModelError(f"candidates: no such folder: {folder}; give a transformers checkpoint")
    if not (folder / "config.json").is_file():
        raise ModelError(f"candidates: {folder} has no config.json; use save_pretrained")
    if not list(folder.glob("*.safetensors")):
        raise ModelError(
            f"candidates: {folder} has no .safetensors weights; save the model with "
            "save_pretrained (pickled .bin weights are never loaded)"
        )
