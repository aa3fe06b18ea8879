"""curvature: the Hessian along the way that fine-tuning took one cell, and its bound.

Key: the cell and what its weights moved by, model, tokens, sample and the section's settings.
Tables: ``layers``, ``bound``, ``density``.
"""

import math
from pathlib import Path
from typing import Any

import pandas as pd

from lensllm.config.sections import Pipeline
from lensllm.core.meter import Meter
from lensllm.store.artifacts import Recipe, Ref, Store, write_table
from tasks.base.cell import Cell
from tasks.base.models import Model
from tasks.base.roles import labelled
from tasks.base.stage import Step, Work
from tasks.stages import delta, sample

VERSION = 2
SPENT = ("delta",)  # upstream that nobody needs once this is made
EPSILON = 0.1  # of the bound


def step(
    config: Pipeline, model: Model, size: int, repeat: int, moved: Step, tokens: Ref, roles: Ref
) -> Step:
    """``moved`` is the cell's step of ``delta``."""
    settings = config.curvature
    params = {
        **settings.model_dump(exclude={"sizes"}),
        "density": repeat == 0 and size == max(settings.sizes),
        "batch_size": config.finetune.batch_size,
        "size": size,
        "seed": config.seed,
        **model.params,
    }
    upstream = {**moved.recipe.upstream, "delta": moved.ref, "tokens": tokens, "sample": roles}
    return Step(
        f"curvature {model.name} · D={size} · seed {repeat}",
        Recipe("curvature", VERSION, params, {**upstream, **model.upstream}),
        {"candidate": model.name, "model": str(model.folder), "device": config.engine.device},
        timeout_seconds=60 * config.engine.cell_timeout_minutes,
        weight=model.work,
    )


def build(work: Work) -> None:
    from lensllm.data.tokens import select
    from lensllm.hessian.bound import bound_terms
    from lensllm.hessian.curvature import layers_of, measure_curvature
    from lensllm.models import load
    from lensllm.models.delta import apply

    params, cell = work.params, work.store.table(work.upstream["cell"], "cell").iloc[0]
    device = load.choose_device(work.hints["device"])
    meter = Meter(device)
    model = load.load_model(Path(work.hints["model"])).to(device)
    kept = work.store.file(work.upstream["delta"], delta.FILE)
    moved = apply(model, kept, layers_of(model))
    tokens = work.store.table(work.upstream["tokens"], "examples")
    rows = sample.rows(work.store, work.upstream["sample"], "train")
    examples = select(tokens, rows[: min(params["size"], params["examples"])])
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
    write_table(work.folder, "curvature/layers", [vars(layer) for layer in found.layers])
    rule = found.density
    pairs = zip(rule.nodes, rule.weights, strict=True) if rule else ()
    write_table(
        work.folder, "curvature/density", [{"eigenvalue": e, "weight": w} for e, w in pairs]
    )
    train, test = (float(cell[f"{role}_example_nats_per_token"]) for role in ("train", "test"))
    largest = float(cell["largest_example_nats_per_token"])
    h = [layer.vhv_positive_max for layer in found.layers]
    terms = bound_terms(train, largest, h, params["size"], EPSILON)
    bound = {
        "candidate": work.hints["candidate"],
        "size": params["size"],
        "seed": int(cell["seed"]),
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
        "flops": found.flops,
        "seconds": meter.seconds(),
        "peak_memory_bytes": meter.peak_memory_bytes(),
    }
    write_table(work.folder, "curvature/bound", [bound])


def read(work: Work, table: str) -> pd.DataFrame:
    """``table`` of every cell upstream, one under another, each row with its cell's candidate, by
    its name in this pipeline, size and seed; no columns where there is no row."""
    frames = []
    for label, ref in labelled(work.upstream, "curvature").items():
        cell, rows = Cell.parse(label), work.store.table(ref, table)
        if len(rows):  # pandas cannot tell what a column without rows holds
            frames.append(rows.assign(candidate=cell.candidate, size=cell.size, seed=cell.repeat))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def tracked(store: Store, ref: Ref) -> dict[str, Any]:
    """What MLflow shows of a cell's curvature."""
    row: dict[str, Any] = store.table(ref, "bound").iloc[0].to_dict()
    return row
