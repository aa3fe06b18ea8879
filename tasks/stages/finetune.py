"""finetune: one cell, a candidate trained on the first D examples of a permutation.

Key: model, tokens, sample, recipe, D, seed and repeat; not the candidate's name. Where learning
rates are chosen, the choice in place of the recipe's own. Tables: ``cell``, ``epochs``. Where the
curvature is measured the weights become an artefact of their own, ``delta``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lensllm.config.sections import Data, FineTune, Pipeline
from lensllm.core.meter import Meter, versions_json
from lensllm.store.artifacts import Recipe, Ref, Store, write_table
from tasks.base import spread, training
from tasks.base.models import Model
from tasks.base.stage import Step, Work
from tasks.stages import delta, rate

if TYPE_CHECKING:
    from lensllm.training.ranks import Ranks

VERSION = 3
# The training loss of the final weights is measured on at most this many examples of the subset.
TRAIN_SAMPLE = 200


def step(
    config: Pipeline,
    model: Model,
    size: int,
    repeat: int,
    tokens: Ref,
    roles: Ref,
    choice: Ref | None = None,
) -> Step:
    """``choice`` is the candidate's artefact of ``rate``, where it has one."""
    content = model.settings.content
    upstream = {"tokens": tokens, "sample": roles, **model.upstream}
    if choice:
        content, upstream = _without_rate(content), {**upstream, "rate": choice}
    recipe = _recipe(config, model, size, repeat, content, upstream)
    return _step(config, model, size, recipe, f"finetune {model.name} · D={size} · seed {repeat}")


def trials(config: Pipeline, model: Model, tokens: Ref, roles: Ref) -> dict[float, Step]:
    """The cells that choose the learning rate, by rate: of the smallest size, the first repeat."""
    size = config.sweep.sizes[0]
    steps = {}
    for value in model.settings.learning_rates:
        upstream = {"tokens": tokens, "sample": roles, **model.upstream}
        content = model.settings.with_learning_rate(value).content
        recipe = _recipe(config, model, size, 0, content, upstream, trial=True)
        label = f"finetune {model.name} · D={size} · learning rate {value:g}"
        steps[value] = _step(config, model, size, recipe, label)
    return steps


def _recipe(
    config: Pipeline,
    model: Model,
    size: int,
    repeat: int,
    content: Mapping[str, Any],
    upstream: Mapping[str, Ref],
    trial: bool = False,
) -> Recipe:
    params = {
        "recipe": dict(content),
        "size": size,
        "seed": config.seed,
        "repeat": repeat,
        **model.params,
        **({"trial": True} if trial else {}),  # then a loss that diverges is a result
    }
    return Recipe("finetune", VERSION, params, upstream)


def _step(config: Pipeline, model: Model, size: int, recipe: Recipe, label: str) -> Step:
    keep = size in config.curvature.sizes and "trial" not in recipe.params
    return Step(
        label,
        recipe,
        {
            **training.hints(model, config.engine, config.data.max_tokens),
            "keep_delta": keep,
        },
        timeout_seconds=60 * config.engine.cell_timeout_minutes,
        weight=forward_equivalents(config, model.settings, size) * model.work,
    )


def _without_rate(content: Mapping[str, Any]) -> dict[str, Any]:
    """Content of the settings without the learning rate, which the stage ``rate`` chooses."""
    if content["method"] == "full":
        return {name: value for name, value in content.items() if name != "learning_rate"}
    adapters = {n: v for n, v in content["lora"].items() if n != "learning_rate"}
    return {**content, "lora": adapters}


def example_counts(data: Data, epochs: int, size: int) -> tuple[int, int]:
    """Examples that a cell is trained on, counted once per epoch, and those it evaluates."""
    validation = data.validation_examples * (epochs + 1 if size else 0)
    return epochs * size, validation + data.test_examples + min(size, TRAIN_SAMPLE)


def forward_equivalents(config: Pipeline, recipe: FineTune, size: int) -> float:
    """Forward passes of one example that a cell costs; training on one counts as three."""
    trained, read = example_counts(config.data, recipe.epochs, size)
    return 3.0 * trained + read


def build(work: Work) -> None:
    if not _tried_already(work):
        spread.run(work, measure_cell)


def measure_cell(work: Work, ranks: Ranks) -> None:
    """Train and measure, on each of the ranks; the first writes."""
    from lensllm.models import cost, load
    from lensllm.training.evaluate import require_finite

    meter = Meter(load.choose_device(work.hints["device"]))
    trained = training.train(work, work.params, work.upstream, ranks)
    model, result, tokens = trained.model, trained.result, trained.tokens
    if result and work.hints["keep_delta"]:
        delta.keep(work.store, work.ref, model, work.hints)
    examples = {**trained.examples, "train": trained.examples["train"][:TRAIN_SAMPLE]}
    test, train_evaluation = (trained.evaluate(examples[role]) for role in ("test", "train"))
    if not trained.diverged:
        require_finite(test.nats + train_evaluation.nats, "this cell's model")
    if not ranks.first:
        return
    kept = tokens.iloc[trained.rows["test"]]
    shape = cost.shape_of(model)
    recipe = trained.recipe
    epochs = recipe.epochs if result else 0
    validated = examples["validation"] * (epochs + 1) if result else []
    best = result.best if result else None
    plan = trained.tuner.plan
    row: dict[str, Any] = {
        "candidate": work.hints["candidate"],
        "size": work.params["size"],
        "seed": work.params["repeat"],
        "nats_per_token": test.nats_per_token,
        "bits_per_byte": test.nats / math.log(2) / int(kept["target_bytes"].sum()),
        "train_nats_per_token": train_evaluation.nats_per_token if result else math.nan,
        "validation_nats_per_token": best.validation_nats_per_token if best else math.nan,
        "test_example_nats_per_token": float(test.examples.mean()),
        "train_example_nats_per_token": float(train_evaluation.examples.mean())
        if result
        else math.nan,
        "largest_example_nats_per_token": float(max(*test.examples, *train_evaluation.examples)),
        "test_tokens": test.tokens,
        "test_bytes": int(kept["target_bytes"].sum()),
        "truncated_examples": int(
            tokens["truncated"].iloc[[r for part in trained.rows.values() for r in part]].sum()
        ),
        "steps": result.epochs[-1].step if result else 0,
        "epochs": epochs,
        "batch_size": recipe.batch_size if result else 0,
        "learning_rate": recipe.peak if result else 0.0,
        "best_epoch": best.epoch if best else 0,
        "learning_rate_integral": best.learning_rate_integral if best else 0.0,
        "parameters": load.count_parameters(model),
        "trainable_parameters": load.count_trainable(model),
        "train_flops": cost.train_flops(shape, trained.examples["train"], epochs),
        "evaluation_flops": cost.forward_flops(
            shape, [*examples["test"], *examples["train"], *validated]
        ),
        "seconds": trained.seconds_before + meter.seconds(),
        "peak_memory_bytes": meter.peak_memory_bytes(),
        "micro_batch": min(plan.micro_batch or recipe.batch_size, recipe.batch_size)
        if result
        else 0,
        "gradient_checkpointing": bool(result) and plan.checkpointing,
        "processes": ranks.size,
        "precision": trained.precision,
        "attention": trained.attention,
        "versions": versions_json(),
    }
    write_table(work.folder, "finetune/cell", [row])
    if result:
        write_table(work.folder, "finetune/epochs", [vars(epoch) for epoch in result.epochs])


def _tried_already(work: Work) -> bool:
    """Whether this cell was the one chosen among its candidate's trials: then its tables are."""
    if "rate" not in work.upstream or work.hints["keep_delta"]:
        return False
    recipe = FineTune.model_validate(work.params["recipe"])
    recipe = recipe.with_learning_rate(rate.chosen(work.store, work.upstream["rate"]))
    params = {**work.params, "recipe": recipe.content, "trial": True}
    upstream = {role: ref for role, ref in work.upstream.items() if role != "rate"}
    same = Recipe("finetune", VERSION, params, upstream).ref
    if not work.store.has(same):
        return False
    for table in ("cell", "epochs"):
        write_table(work.folder, f"finetune/{table}", work.store.table(same, table))
    return True


def remark(store: Store, ref: Ref) -> str:
    """How a cell was trained, where that is not as everywhere; of D = 0 what a candidate runs with,
    so said once of each."""
    row = store.table(ref, "cell").iloc[0]
    if not row["size"]:
        return f"{row['precision']}; {row['attention']}"
    if math.isinf(row["validation_nats_per_token"]):
        return f"learning rate {row['learning_rate']:g} diverges"
    again = ", activations computed twice" if row["gradient_checkpointing"] else ""
    if row["micro_batch"] == row["batch_size"]:
        return again.removeprefix(", ")
    return f"{row['micro_batch']} of {row['batch_size']} examples at a time, to fit{again}"


def tracked(store: Store, ref: Ref) -> dict[str, Any]:
    """What MLflow shows of a cell."""
    row: dict[str, Any] = store.table(ref, "cell").iloc[0].to_dict()
    return row
