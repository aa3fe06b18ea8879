"""The change of the trainable weights by fine-tuning, fine-tuned − pretrained, on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lensllm.core.errors import ModelError
from lensllm.models import adapters


def save(tuned: Any, pretrained: Any, path: Path) -> None:
    """Write the difference of two models' trainable weights as safetensors.

    With adapters, it is what merging them adds to all pretrained weights, 0 where there is none.
    """
    before = dict(pretrained.named_parameters())
    if adapters.is_adapted(tuned):
        difference = adapters.merged_difference(tuned)
        difference |= {n: torch.zeros_like(w) for n, w in before.items() if n not in difference}
    else:
        difference = {
            name: weight.detach().cpu() - before[name].detach()
            for name, weight in tuned.named_parameters()
            if weight.requires_grad
        }
    save_file(difference, path)


def apply(model: Any, path: Path, layers: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
    """Add the difference to the pretrained ``model`` in place; the change of each layer, flat.

    ``layers`` holds names of weights. Raises ModelError if the file is damaged, or another model's.
    """
    named = dict(model.named_parameters())
    try:
        with safe_open(path, framework="pt", device=str(model.device)) as file, torch.no_grad():
            moved = {}
            for layer, names in layers.items():
                pieces = [file.get_tensor(name) for name in names]
                for name, piece in zip(names, pieces, strict=True):
                    named[name] += piece
                moved[layer] = torch.cat([piece.flatten() for piece in pieces])
            return moved
    except (SafetensorError, OSError, RuntimeError) as error:
        raise ModelError(
            f"the weights kept in {path.name} are not those of this model ({error}); "
            "remove that artefact, and the next run trains the cell again"
        ) from error
