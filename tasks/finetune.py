"""finetune: one cell, a candidate trained on the first D examples of a permutation.

Key: model, tokens, sample, recipe, D, seed and repeat; not the candidate's name. Tables: ``cell``,
``epochs``. Where the curvature is measured the weights become an artefact of their own, ``delta``.
"""

import math
from typing import Any

from lensllm import measure
from lensllm.config import Data, FineTune, Pipeline
from lensllm.store import Recipe, Ref, Store, write_table
from tasks import delta
from tasks.models import Model
from tasks.stage import Step, Work
from tasks.training import train

VERSION = 3
# The training loss of the final weights is measured on at most this many examples of the subset.
TRAIN_SAMPLE = 200


def step(config: Pipeline, model: Model, size: int, repeat: int, tokens: Ref, roles: Ref) -> Step:
    params = {
        "recipe": model.recipe.describe(),
        "size": size,
        "seed": config.seed,
        "repeat": repeat,
        **model.params,
    }
    recipe = Recipe(
        "finetune", VERSION, params, {"tokens": tokens, "sample": roles, **model.upstream}
    )
    return Step(
        f"finetune {model.name} · D={size} · seed {repeat}",
        recipe,
        {
            "candidate": model.name,
            "model": str(model.folder),
            "device": config.engine.device,
            "keep_delta": size in config.curvature.sizes,
        },
        timeout_seconds=60 * config.engine.cell_timeout_minutes,
        weight=passes(config, model.recipe, size) * model.work,
    )


def seen(data: Data, epochs: int, size: int) -> tuple[int, int]:
    """Examples that a cell is trained on, each counted once an epoch, and those it only reads."""
    validation = data.validation_examples * (epochs + 1 if size else 0)
    return epochs * size, validation + data.test_examples + min(size, TRAIN_SAMPLE)


def passes(config: Pipeline, recipe: FineTune, size: int) -> float:
    """Examples passed forward in a cell; a training step counts as three."""
    trained, read = seen(config.data, recipe.epochs, size)
    return 3.0 * trained + read


def build(work: Work) -> None:
    from lensllm import finetune
    from lensllm.models import cost, load

    meter = measure.Meter(load.choose_device(work.hints["device"]))
    trained = train(work.store, work.params, work.upstream, work.hints)
    model, tuned, tokens = trained.model, trained.tuned, trained.tokens
    if tuned:
        write_table(work.folder, "finetune/epochs", [vars(epoch) for epoch in tuned.epochs])
        if work.hints["keep_delta"]:
            delta.keep(work.store, work.ref, model, work.hints)
    seen = {**trained.examples, "train": trained.examples["train"][:TRAIN_SAMPLE]}
    test, again = (
        finetune.evaluate(model, seen[role], device=trained.device, dtype=trained.dtype)
        for role in ("test", "train")
    )
    finetune.finite(test.nats + again.nats, "this cell's model")
    kept = tokens.iloc[trained.rows["test"]]
    shape = cost.shape_of(model)
    epochs = trained.recipe.epochs if tuned else 0
    validated = seen["validation"] * (epochs + 1) if tuned else []
    best = tuned.best if tuned else None
    row: dict[str, Any] = {
        "candidate": work.hints["candidate"],
        "size": work.params["size"],
        "seed": work.params["repeat"],
        "nats_per_token": test.nats_per_token,
        "bits_per_byte": test.nats / math.log(2) / int(kept["target_bytes"].sum()),
        "train_nats_per_token": again.nats_per_token if tuned else math.nan,
        "validation_nats_per_token": best.validation_nats_per_token if best else math.nan,
        "test_example_nats_per_token": float(test.examples.mean()),
        "train_example_nats_per_token": float(again.examples.mean()) if tuned else math.nan,
        "largest_example_nats_per_token": float(max(*test.examples, *again.examples)),
        "test_tokens": test.tokens,
        "test_bytes": int(kept["target_bytes"].sum()),
        "truncated_examples": int(
            tokens["truncated"].iloc[[r for part in trained.rows.values() for r in part]].sum()
        ),
        "steps": tuned.epochs[-1].step if tuned else 0,
        "epochs": epochs,
        "best_epoch": best.epoch if best else 0,
        "learning_rate_integral": best.learning_rate_integral if best else 0.0,
        "parameters": load.count_parameters(model),
        "trainable_parameters": load.count_trainable(model),
        "train_flops": cost.train_flops(shape, trained.examples["train"], epochs),
        "evaluation_flops": cost.forward_flops(shape, [*seen["test"], *seen["train"], *validated]),
        "seconds": meter.seconds(),
        "peak_memory_bytes": meter.peak_memory_bytes(),
        "precision": trained.precision,
        "attention": trained.attention,
        "versions": measure.versions_json(),
    }
    write_table(work.folder, "finetune/cell", [row])


def remark(store: Store, ref: Ref) -> str:
    """With what a candidate runs, and why so; said once, of its first cell."""
    row = store.table(ref, "cell").iloc[0]
    return "" if row["size"] else f"{row['precision']}; {row['attention']}"


def tracked(store: Store, ref: Ref) -> dict[str, Any]:
    """What MLflow shows of a cell."""
    row: dict[str, Any] = store.table(ref, "cell").iloc[0].to_dict()
    return row
