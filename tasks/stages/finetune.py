"""finetune: one cell, a candidate trained on the first D examples of a permutation.

Key: model, tokens, sample, recipe, D, seed and repeat; not the candidate's name. Where learning
rates are chosen, the choice in place of the recipe's own. Tables: ``cell``, ``epochs``. Where the
curvature is measured the weights become an artefact of their own, ``delta``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lensllm.config.sections import FineTune, Pipeline
from lensllm.core.meter import Meter, versions
from lensllm.store.artifacts import Ref, Store
from lensllm.training.schedule import trunk_examples
from tasks.base import processes
from tasks.base.model import Model
from tasks.base.plan import Plan
from tasks.base.stage import Planner, Stage
from tasks.base.step import BuildContext, Cell, Label, Step, Trial, first_row
from tasks.base.training import cell_settings, train, training_hints
from tasks.stages import delta

if TYPE_CHECKING:
    from lensllm.training.ranks import Ranks

# The training loss of the final weights is measured on at most this many examples of the subset.
TRAIN_SAMPLE = 200


def planned(plan: Plan) -> Iterator[tuple[Label, Step]]:
    """The trials that choose learning rates, and every cell."""
    for model in plan.heaviest_first:
        for value, trial in trials(plan, model).items():
            yield Trial(model.name, value), trial
    before: dict[tuple[str, int], Ref] = {}  # the branch of the next smaller size
    for cell in plan.grid:
        made, key = step(plan, cell), (cell.candidate, cell.repeat)
        if _is_branch(plan, cell):
            made = replace(made, after=(before[key],) if key in before else ())
            before[key] = made.ref
        yield cell, made


def step(plan: Plan, cell: Cell) -> Step:
    """The step of one cell."""
    model = plan.by_name[cell.candidate]
    content, upstream = _content(plan, model, cell), plan.training_inputs(model, cell.repeat)
    if cell.size and (rate := plan["rate"].get(model.name)):
        content, upstream = _without_rate(content), {**upstream, "rate": rate.ref}
    label = f"finetune {model.name} · D={cell.size} · repeat {cell.repeat}"
    return _step(plan, cell, label, content, upstream)


def trials(plan: Plan, model: Model) -> dict[float, Step]:
    """The steps that choose the learning rate, by rate: of the smallest size, the first repeat."""
    cell, upstream = Cell(model.name, plan.observed[0], 0), plan.training_inputs(model)
    return {
        value: _step(
            plan,
            cell,
            f"finetune {model.name} · D={cell.size} · learning rate {value:g}",
            _content(plan, model, cell, model.settings.with_learning_rate(value)),
            upstream,
            trial=True,
        )
        for value in model.settings.learning_rates
    }


def _step(
    plan: Plan,
    cell: Cell,
    label: str,
    content: Mapping[str, Any],
    upstream: Mapping[str, Ref],
    *,
    trial: bool = False,
) -> Step:
    config, model = plan.config, plan.by_name[cell.candidate]
    params = {
        "recipe": dict(content),
        "size": cell.size,
        "seed": config.seed,
        "repeat": cell.repeat,
        **model.params,
        **({"schedule": "trunk"} if _is_branch(plan, cell) else {}),
        **({"trial": True} if trial else {}),  # then a loss that diverges is a result
    }
    hints = training_hints(model, config.engine, config.data.max_tokens)
    return STAGE.step(
        label,
        params,
        upstream,
        {
            **hints,
            "keep_delta": cell.size in config.curvature.sizes and not trial,
            "keep_trunks": config.sweep.keep_trunks,
        },
        timeout_seconds=60 * config.engine.cell_timeout_minutes,
        weight=forward_equivalents(config, model.settings, cell.size) * model.work,
    )


def _is_branch(plan: Plan, cell: Cell) -> bool:
    """True for a subset of a sweep with trunks; the target is trained as the user will."""
    return plan.config.sweep.schedule == "trunk" and cell.size in plan.observed


def _content(
    plan: Plan, model: Model, cell: Cell, settings: FineTune | None = None
) -> dict[str, Any]:
    settings = settings or model.settings
    return settings.trunk_content if _is_branch(plan, cell) else settings.content


def _without_rate(content: Mapping[str, Any]) -> dict[str, Any]:
    """Content of the settings without the learning rate, which the stage ``rate`` chooses."""
    if content["method"] == "full":
        return {name: value for name, value in content.items() if name != "learning_rate"}
    adapters = {n: v for n, v in content["lora"].items() if n != "learning_rate"}
    return {**content, "lora": adapters}


def example_counts(config: Pipeline, settings: FineTune, size: int) -> tuple[int, int]:
    """Examples that a cell is trained on, counted once per epoch, and those it evaluates.

    A branch counts the part of its trunk behind that of the next smaller size.
    """
    data, sizes, epochs = config.data, config.sweep.sizes, settings.epochs
    if config.sweep.schedule == "trunk" and size in sizes:
        before = sizes[: sizes.index(size)][-1:]
        shared = [trunk_examples(smaller, settings.batch_size) for smaller in before]
        return size - sum(shared), data.test_examples
    validation = data.validation_examples * (epochs + 1 if size else 0)
    return epochs * size, validation + data.test_examples + min(size, TRAIN_SAMPLE)


def forward_equivalents(config: Pipeline, settings: FineTune, size: int) -> float:
    """Forward passes of one example that a cell costs; training on one counts as three."""
    trained, read = example_counts(config, settings, size)
    return 3.0 * trained + read


def build(context: BuildContext) -> None:
    if not _copied_from_trial(context):
        processes.run(context, measure_cell)


def measure_cell(context: BuildContext, ranks: Ranks) -> None:
    """Train and measure, on each of the ranks; the first writes."""
    import numpy as np

    from lensllm.models import cost, load
    from lensllm.training.evaluate import require_finite

    meter = Meter(load.choose_device(context.hints["device"]))
    trained = train(context, context.params, context.upstream, ranks)
    model, result, tokens = trained.model, trained.result, trained.tokens
    if result and context.hints["keep_delta"]:
        delta.keep(context.store, context.ref, model, context.hints)
    examples, is_branch = trained.examples, "schedule" in context.params
    # Where the curvature of a branch is examined, that stage measures the training loss.
    sample = [] if is_branch else examples["train"][:TRAIN_SAMPLE]
    test = trained.evaluate(examples["test"])
    losses = trained.evaluate(sample) if sample else None  # of the training examples
    if not trained.diverged:
        require_finite(test.nats + (losses.nats if losses else 0.0), "this cell's model")
    if not ranks.first:
        return
    kept = tokens.iloc[trained.rows["test"]]
    shape = cost.shape_of(model)
    settings = trained.settings
    epochs = result.epochs[-1].epoch if result else 0
    validations = [e.validation_nats_per_token for e in result.epochs] if result else []
    leaves = trunk_examples(context.params["size"], settings.batch_size) if is_branch else 0
    read = [*examples["test"], *sample]
    read += examples["validation"] * int(np.isfinite(validations).sum())
    best = result.best if result else None
    plan = trained.tuner.plan  # of micro-batches
    row: dict[str, Any] = {
        "candidate": context.hints["candidate"],
        "size": context.params["size"],
        "repeat": context.params["repeat"],
        "nats_per_token": test.nats_per_token,
        "bits_per_byte": test.nats / math.log(2) / int(kept["target_bytes"].sum()),
        "train_nats_per_token": losses.nats_per_token if losses else math.nan,
        "validation_nats_per_token": best.validation_nats_per_token if best else math.nan,
        "test_example_nats_per_token": float(test.examples.mean()),
        "train_example_nats_per_token": float(losses.examples.mean()) if losses else math.nan,
        "largest_example_nats_per_token": float(
            max(*test.examples, *(losses.examples if losses else ()))
        ),
        "test_tokens": test.tokens,
        "test_bytes": int(kept["target_bytes"].sum()),
        "truncated_examples": int(
            tokens["truncated"].iloc[[r for part in trained.rows.values() for r in part]].sum()
        ),
        "steps": result.epochs[-1].step if result else 0,
        "epochs": epochs,
        "batch_size": settings.batch_size if result else 0,
        "learning_rate": settings.peak if result else 0.0,
        "best_epoch": best.epoch if best else 0,
        "learning_rate_integral": best.learning_rate_integral if best else 0.0,
        "parameters": load.count_parameters(model),
        "trainable_parameters": load.count_trainable(model),
        "train_flops": cost.train_flops(shape, examples["train"][leaves:], epochs),
        "trunk_examples": leaves,
        "evaluated_examples": len(read),
        "trunk_flops": cost.train_flops(shape, examples["train"][:leaves], 1),
        "evaluation_flops": cost.forward_flops(shape, read),
        "seconds": trained.seconds_before + meter.seconds(),
        "peak_memory_bytes": meter.peak_memory_bytes(),
        "micro_batch": min(plan.micro_batch or settings.batch_size, settings.batch_size)
        if result
        else 0,
        "gradient_checkpointing": bool(result) and plan.checkpointing,
        "processes": ranks.size,
        "precision": trained.precision,
        "attention": trained.attention,
        "versions": json.dumps(versions(), sort_keys=True),
    }
    context.write("finetune/cell", [row])
    if result:
        context.write("finetune/epochs", [vars(epoch) for epoch in result.epochs])


def _copied_from_trial(context: BuildContext) -> bool:
    """Copy the tables of the trial with the chosen rate, where this cell is the same run."""
    if "rate" not in context.upstream or context.hints["keep_delta"]:
        return False
    settings = cell_settings(context.store, context.params, context.upstream)
    content = settings.trunk_content if "schedule" in context.params else settings.content
    params = {**context.params, "recipe": content, "trial": True}
    upstream = {role: ref for role, ref in context.upstream.items() if role != "rate"}
    same = STAGE.step("", params, upstream).ref
    if not context.store.has(same):
        return False
    for table in ("cell", "epochs"):
        context.write(f"finetune/{table}", context.store.table(same, table))
    return True


def note(store: Store, ref: Ref) -> str:
    """Precision and attention for D = 0, so once per candidate; else how a cell was made to fit."""
    row = store.table(ref, "cell").iloc[0]
    if not row["size"]:
        return f"{row['precision']}; {row['attention']}"
    if math.isinf(row["validation_nats_per_token"]):
        return f"learning rate {row['learning_rate']:g} diverges"
    again = ", activations computed twice" if row["gradient_checkpointing"] else ""
    if row["micro_batch"] == row["batch_size"]:
        return again.removeprefix(", ")
    return f"{row['micro_batch']} of {row['batch_size']} examples at a time, to fit{again}"


STAGE = Stage(
    name="finetune",
    version=5,
    tables=("finetune/cell", "finetune/epochs"),
    plan=Planner("cell", planned),
    build=build,
    note=note,
    mlflow=first_row("cell"),
    in_report=True,
)
