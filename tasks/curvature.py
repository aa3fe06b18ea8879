"""curvature: the Hessian bound of one cell, a diagnostic.

Key: the cell with its weights, model, tokens, sample and the section's settings. Tables:
``layers``, ``bound``.
"""

from pathlib import Path
from typing import Any

from lensllm import measure
from lensllm.config import Pipeline
from lensllm.store import Recipe, Ref, Store, write_table
from tasks import sample
from tasks.models import Model
from tasks.stage import Step, Work

VERSION = 1


def step(
    config: Pipeline, model: Model, size: int, repeat: int, cell: Ref, tokens: Ref, roles: Ref
) -> Step:
    params = {
        **config.curvature.model_dump(exclude={"sizes"}),
        "size": size,
        "seed": config.seed,
        **model.params,
    }
    upstream = {"cell": cell, "tokens": tokens, "sample": roles, **model.upstream}
    return Step(
        f"curvature {model.name} · D={size} · seed {repeat}",
        Recipe("curvature", VERSION, params, upstream),
        {"candidate": model.name, "model": str(model.folder), "device": config.engine.device},
        timeout_seconds=60 * config.engine.cell_timeout_minutes,
        weight=model.work,
    )


def build(work: Work) -> None:
    from safetensors.torch import load_file

    from lensllm.curvature import measure as hessian
    from lensllm.data.tokens import select
    from lensllm.models import load

    params = work.params
    device = load.choose_device(work.hints["device"])
    meter = measure.Meter(device)
    model = load.load_model(Path(work.hints["model"])).to(device)
    pretrained = {name: p.detach().clone() for name, p in model.named_parameters()}
    weights = load_file(work.store.path(work.upstream["cell"]) / "weights.safetensors")
    for name, parameter in model.named_parameters():  # tied weights are stored once
        parameter.data.copy_(weights[name])

    tokens = work.store.table(work.upstream["tokens"], "examples")
    train, test = (
        select(tokens, sample.rows(work.store, work.upstream["sample"], role))
        for role in ("train", "test")
    )
    examples = train[: min(params["size"], params["examples"])]
    found = hessian.measure_curvature(
        model,
        pretrained,
        examples,
        subset_size=params["size"],
        test_nats_per_token=float(hessian.losses(model, test).mean()),
        lanczos_steps=params["lanczos_steps"],
        trace_probes=params["trace_probes"],
        max_examples_for_h=params["single_examples"],
        seed=params["seed"],
    )
    layers = [vars(layer) for layer in found.layers]
    write_table(work.folder, "curvature/layers", layers)
    cell = work.store.table(work.upstream["cell"], "cell").iloc[0]
    bound = {
        **{name: value for name, value in vars(found).items() if name != "layers"},
        "candidate": work.hints["candidate"],
        "size": params["size"],
        "seed": int(cell["seed"]),
        "seconds": meter.seconds(),
    }
    write_table(work.folder, "curvature/bound", [bound])


def tracked(store: Store, ref: Ref) -> dict[str, Any]:
    """What MLflow shows of a cell's curvature."""
    row: dict[str, Any] = store.table(ref, "bound").iloc[0].to_dict()
    return row
