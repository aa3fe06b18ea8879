"""Do batches of like lengths learn what random ones do? Whole cells of embedded candidates, on what
`lensllm run demo` left in ``artifacts``."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from transformers.utils import logging

from bench.timing import markdown
from lensllm.config import configfile
from lensllm.config.sections import FineTune
from lensllm.core.errors import LensError
from lensllm.data.tokens import select
from lensllm.models.load import load_model
from lensllm.store.artifacts import Store
from lensllm.training import loop
from lensllm.training.evaluate import evaluate
from lensllm.training.loop import fine_tune
from tasks.base.training import split_rows
from tasks.planning.plan import make_plan

ARTIFACTS, PIPELINE = Path("artifacts"), "demo"
MODELS = ("neo-micro-topics", "gpt2-nano-docs")
SIZE, SEEDS = 400, 4
POOLS = (loop._POOL_BATCHES, 1)  # of one batch a pool: random batches
CPU, FLOAT = torch.device("cpu"), torch.float32


def table() -> str:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    columns = ["model", f"pools of {POOLS[0]} batches", "random batches", "difference"]
    try:
        return markdown(
            f"Fine-tuning on {SIZE} examples, nats per token: mean and standard deviation of "
            f"{SEEDS} seeds",
            columns,
            [_row(name) for name in MODELS],
        )
    except (LensError, StopIteration, FileNotFoundError):
        return "\npools: run `lensllm run demo` first"


def _row(name: str) -> list[str]:
    ours, random = (np.array([_loss(name, seed, pool) for seed in range(SEEDS)]) for pool in POOLS)
    told = [f"{losses.mean():.4f} ± {losses.std(ddof=1):.4f}" for losses in (ours, random)]
    return [name, *told, f"{ours.mean() - random.mean():+.4f}"]


def _loss(name: str, seed: int, pool: int) -> float:
    """Test loss of a cell with the default recipe."""
    store = Store(ARTIFACTS)
    plan = make_plan(configfile.load(Path("pipelines.yaml"), PIPELINE), store)
    model = load_model(next(m for m in plan.models if m.name == name).folder)
    tokens = store.table(plan["tokens"][name].ref, "examples")
    train, validation, test = (
        select(tokens, split_rows(store, plan["sample"][0].ref, role))
        for role in ("train", "validation", "test")
    )
    with patch.object(loop, "_POOL_BATCHES", pool):
        fine_tune(model, train[:SIZE], validation, FineTune(), seed=seed, device=CPU, dtype=FLOAT)
    return evaluate(model, test, device=CPU, dtype=FLOAT).nats_per_token
