"""finetune: one cell, a candidate trained on the first D examples of a permutation.

Key: model, tokens, sample, recipe, D, seed and repeat; not the candidate's name. Tables: ``cell``,
``epochs``; ``weights.safetensors`` for cells whose curvature is measured.
"""

import math
from pathlib import Path
from typing import Any

from lensllm import measure
from lensllm.config import FineTune, Pipeline
from lensllm.store import Recipe, Ref, Store, write_table
from tasks import sample
from tasks.models import Model
from tasks.stage import Step, Work

VERSION = 1
# The training loss of the final weights is measured on at most this many examples of the subset.
TRAIN_SAMPLE = 200


def step(config: Pipeline, model: Model, size: int, repeat: int, tokens: Ref, roles: Ref) -> Step:
    params = {
        "recipe": config.finetune.model_dump(mode="json"),
        "size": size,
        "seed": config.seed,
        "repeat": repeat,
        "weights": size in config.curvature.sizes,
        **model.params,
    }
    recipe = Recipe(
        "finetune", VERSION, params, {"tokens": tokens, "sample": roles, **model.upstream}
    )
    return Step(
        f"finetune {model.name} · D={size} · seed {repeat}",
        recipe,
        {"candidate": model.name, "model": str(model.folder), "device": config.engine.device},
        timeout_seconds=60 * config.engine.cell_timeout_minutes,
        weight=passes(config, size) * model.work,
    )


def passes(config: Pipeline, size: int) -> float:
    """Examples passed forward in a cell; a training step counts as three."""
    epochs = config.finetune.epochs if size else 0
    validation = config.data.validation_examples * (epochs + 1 if size else 0)
    return 3.0 * epochs * size + validation + config.data.test_examples + min(size, TRAIN_SAMPLE)


def build(work: Work) -> None:
    from lensllm import finetune, seeds
    from lensllm.data.tokens import select
    from lensllm.models import cost, load

    recipe = FineTune.model_validate(work.params["recipe"])
    device = load.choose_device(work.hints["device"])
    meter = measure.Meter(device)
    model = load.load_model(Path(work.hints["model"])).to(device)
    dtype, precision = load.choose_precision(recipe.precision, load.count_parameters(model), device)
    tokens = work.store.table(work.upstream["tokens"], "examples")
    rows = {
        role: sample.rows(work.store, work.upstream["sample"], role)
        for role in ("train", "validation", "test")
    }
    rows["train"] = rows["train"][: work.params["size"]]
    train, validation, test = (select(tokens, rows[r]) for r in ("train", "validation", "test"))

    tuned = None
    if train:
        seed = seeds.integer(work.params["seed"], "cell", work.params["repeat"])
        tuned = finetune.fine_tune(
            model, train, validation, recipe, seed=seed, device=device, dtype=dtype
        )
        write_table(work.folder, "finetune/epochs", [vars(epoch) for epoch in tuned.epochs])
    losses = {
        "test": finetune.evaluate(model, test, device=device, dtype=dtype),
        "train": finetune.evaluate(model, train[:TRAIN_SAMPLE], device=device, dtype=dtype),
    }
    if work.params["weights"]:
        _save_weights(model, work.folder / "weights.safetensors")

    kept = tokens.iloc[rows["test"]]
    shape = cost.shape_of(model)
    epochs = recipe.epochs if train else 0
    evaluated = [*test, *train[:TRAIN_SAMPLE], *(validation * (epochs + 1) if train else [])]
    best = tuned.best if tuned else None
    row: dict[str, Any] = {
        "candidate": work.hints["candidate"],
        "size": work.params["size"],
        "seed": work.params["repeat"],
        "nats_per_token": losses["test"].nats_per_token,
        "bits_per_byte": losses["test"].nats / math.log(2) / int(kept["target_bytes"].sum()),
        "train_nats_per_token": losses["train"].nats_per_token if train else math.nan,
        "validation_nats_per_token": best.validation_nats_per_token if best else math.nan,
        "test_tokens": losses["test"].tokens,
        "test_bytes": int(kept["target_bytes"].sum()),
        "truncated_examples": int(
            tokens["truncated"].iloc[[r for part in rows.values() for r in part]].sum()
        ),
        "steps": tuned.epochs[-1].step if tuned else 0,
        "epochs": epochs,
        "best_epoch": best.epoch if best else 0,
        "learning_rate_integral": best.learning_rate_integral if best else 0.0,
        "parameters": load.count_parameters(model),
        "train_flops": cost.train_flops(shape, train, epochs),
        "evaluation_flops": cost.forward_flops(shape, evaluated),
        "seconds": meter.seconds(),
        "peak_memory_bytes": meter.peak_memory_bytes(),
        "precision": precision,
        "versions": measure.versions_json(),
    }
    write_table(work.folder, "finetune/cell", [row])


def _save_weights(model: Any, path: Path) -> None:
    from safetensors.torch import save_file

    save_file({n: p.detach().cpu().contiguous() for n, p in model.named_parameters()}, path)


def tracked(store: Store, ref: Ref) -> dict[str, Any]:
    """What MLflow shows of a cell."""
    row: dict[str, Any] = store.table(ref, "cell").iloc[0].to_dict()
    return row
