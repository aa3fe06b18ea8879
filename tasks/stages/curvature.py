"""curvature: the Hessian along the way that fine-tuning took one cell, and its bound.

Key: the cell and what its weights moved by, model, tokens, sample and the section's settings.
Tables: ``layers``, ``bound``, ``density``.
"""

import math
from pathlib import Path

import pandas as pd

from lensllm.core.meter import Meter
from tasks.base.plan import Plan, per_cell
from tasks.base.stage import Stage
from tasks.base.step import BuildContext, Cell, Step, first_row
from tasks.base.training import split_rows
from tasks.stages import delta, finetune

EPSILON = 0.1  # of the bound


def step(plan: Plan, cell: Cell) -> Step | None:
    """The step of ``cell``; None for a size that was not asked for."""
    config, settings, model = plan.config, plan.config.curvature, plan.by_name[cell.candidate]
    if cell.size not in settings.sizes:
        return None
    moved = delta.step(plan.cells[cell])
    params = {
        **settings.model_dump(exclude={"sizes"}),
        "density": cell.repeat == 0 and cell.size == max(settings.sizes),
        "batch_size": config.finetune.batch_size,
        "size": cell.size,
        "seed": config.seed,
        **model.params,
    }
    upstream = {"cell": plan.cells[cell].ref, "delta": moved.ref}
    return STAGE.step(
        f"curvature {model.name} · D={cell.size} · repeat {cell.repeat}",
        params,
        upstream | plan.training_inputs(model, cell.repeat),
        {"candidate": model.name, "model": str(model.folder), "device": config.engine.device},
        timeout_seconds=60 * config.engine.cell_timeout_minutes,
        weight=model.work,
    )


def build(context: BuildContext) -> None:
    import torch

    from lensllm.data.tokens import select
    from lensllm.hessian.bound import bound_terms
    from lensllm.hessian.curvature import layers_of, measure_curvature
    from lensllm.models import cost, load
    from lensllm.models.delta import apply
    from lensllm.training.evaluate import evaluate

    params, cell = context.params, context.table("cell", "cell").iloc[0]
    device = load.choose_device(context.hints["device"])
    meter = Meter(device)
    model = load.load_model(Path(context.hints["model"])).to(device)
    kept = context.store.file(context.upstream["delta"], delta.FILE)
    moved = apply(model, kept, layers_of(model))
    tokens = context.table("tokens", "examples")
    rows = split_rows(context.store, context.upstream["sample"], "train")
    trained = select(tokens, rows[: params["size"]])
    examples = trained[: params["examples"]]
    train, test = (float(cell[f"{role}_example_nats_per_token"]) for role in ("train", "test"))
    largest, flops = float(cell["largest_example_nats_per_token"]), 0.0
    if math.isnan(train):  # a branch does not measure it
        sample = trained[: finetune.TRAIN_SAMPLE]
        losses = evaluate(model, sample, device=device, dtype=torch.float32).examples
        train, largest = float(losses.mean()), max(largest, float(losses.max()))
        flops = cost.forward_flops(cost.shape_of(model), sample)
    found = measure_curvature(
        model,
        moved,
        examples,
        mean_examples=params["mean_examples"],
        batch_size=params["batch_size"],
        tolerance=params["tolerance"],
        lanczos_steps=params["lanczos_steps"],
        trace_vectors=params["trace_probes"],
        density=params["density"],
        seed=params["seed"],
    )
    context.write("curvature/layers", [vars(layer) for layer in found.layers])
    rule = found.density
    pairs = zip(rule.nodes, rule.weights, strict=True) if rule else ()
    context.write("curvature/density", [{"eigenvalue": e, "weight": w} for e, w in pairs])
    h = [layer.vhv_positive_max for layer in found.layers]
    terms = bound_terms(train, largest, h, params["size"], EPSILON)
    bound = {
        "candidate": context.hints["candidate"],
        "size": params["size"],
        "repeat": int(cell["repeat"]),
        "loss_bound": largest,
        "uniform_nats_per_token": math.log(model.get_output_embeddings().weight.shape[0]),
        "epsilon": EPSILON,
        "train_term": terms.train_term,
        "curvature_term": terms.curvature_term,
        "bound": terms.bound,
        "train_nats_per_token": train,
        "test_nats_per_token": test,
        "gap": test - train,
        "examples": len(examples),
        "flops": flops + found.flops,
        "seconds": meter.seconds(),
        "peak_memory_bytes": meter.peak_memory_bytes(),
    }
    context.write("curvature/bound", [bound])


def read(context: BuildContext, table: str) -> pd.DataFrame:
    """``table`` of every cell upstream, each row with its cell's candidate, size and repeat.

    Candidates have their names in this pipeline. A frame without rows has no columns.
    """
    frames = []
    for label, ref in context.each("curvature").items():
        cell, rows = Cell.parse(label), context.store.table(ref, table)
        if len(rows):  # pandas cannot tell what a column without rows holds
            frames.append(rows.assign(candidate=cell.candidate, size=cell.size, repeat=cell.repeat))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


STAGE = Stage(
    name="curvature",
    version=4,
    tables=("curvature/layers", "curvature/bound", "curvature/density"),
    plan=per_cell(step),
    build=build,
    discards=("delta",),
    mlflow=first_row("bound"),
    flops=lambda store, ref: float(store.table(ref, "bound")["flops"].sum()),
    in_report=True,
)
