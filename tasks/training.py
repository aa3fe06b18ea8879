"""Training a cell: what the stages ``finetune`` and ``delta`` have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensllm.config import FineTune
from lensllm.store import Ref, Store
from tasks import sample

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from lensllm.finetune import Tuned
    from lensllm.models.batch import Example

ROLES = ("train", "validation", "test")


@dataclass(frozen=True)
class Trained:
    """A fine-tuned model and what it was trained and is tested on."""

    model: Any
    tuned: Tuned | None  # None of the pretrained model, D = 0
    recipe: FineTune
    device: torch.device
    dtype: torch.dtype
    precision: str
    attention: str
    tokens: pd.DataFrame  # tokens/examples
    rows: dict[str, list[int]]  # of ``tokens``, by role
    examples: dict[str, list[Example]]  # by role


def train(
    store: Store, params: Mapping[str, Any], upstream: Mapping[str, Ref], hints: Mapping[str, Any]
) -> Trained:
    """Fine-tune as the recipe of a cell says; the same bits at every call on one CPU."""
    from lensllm import finetune, seeds
    from lensllm.data.tokens import select
    from lensllm.models import load
    from lensllm.models.prepare import prepare

    recipe = FineTune.model_validate(params["recipe"])
    device = load.choose_device(hints["device"])
    seed = seeds.integer(params["seed"], "cell", params["repeat"])
    ready = prepare(Path(hints["model"]), recipe, seeds.integer(seed, "adapters"), device)
    model, dtype = ready.model, ready.dtype
    tokens = store.table(upstream["tokens"], "examples")
    rows = {role: sample.rows(store, upstream["sample"], role) for role in ROLES}
    rows["train"] = rows["train"][: params["size"]]
    examples = {role: select(tokens, chosen) for role, chosen in rows.items()}
    seen = (*examples["train"], *examples["test"])
    largest = max(max((*e.prompt, *e.completion)) for e in seen)
    load.check_vocabulary(model, largest, Path(hints["model"]))
    tuned = None
    if examples["train"]:
        tuned = finetune.fine_tune(
            model,
            examples["train"],
            examples["validation"],
            recipe,
            seed=seed,
            device=device,
            dtype=dtype,
        )
    return Trained(
        model,
        tuned,
        recipe,
        device,
        dtype,
        ready.precision,
        ready.attention,
        tokens,
        rows,
        examples,
    )
