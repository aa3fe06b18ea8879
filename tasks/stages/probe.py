"""probe: what a candidate takes on this machine, from about twenty steps of its own recipe.

Key: model, tokens, sample, what of the recipe decides its speed, and the machine: processor, cores,
GPUs, device and slots. Only the report reads it. Table: ``throughput``.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensllm.config.sections import FineTune
from lensllm.core.meter import Meter
from lensllm.store.artifacts import Ref, Store
from lensllm.training import throughput
from lensllm.training.throughput import Throughput
from tasks.base.model import Model
from tasks.base.plan import Plan, per_candidate
from tasks.base.stage import Stage
from tasks.base.step import BuildContext, Step, first_row
from tasks.base.training import split_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from lensllm.models.batch import Example
    from lensllm.models.prepare import Prepared

# What a step costs does not depend on these.
_INDIFFERENT = {"learning_rate", "learning_rates", "weight_decay", "epochs", "warmup", "clip"}
# The first load in a process takes longer than later ones: worth a second one where it is short.
_QUICK_LOAD_SECONDS = 5.0


def planned(plan: Plan, model: Model) -> Step | None:
    """The step of ``model``; a finished sweep is not probed on yet another machine."""
    here = step(plan, model)
    cells = (s for cell, s in plan.cells.items() if cell.candidate == model.name)
    if all(plan.store.has(cell.ref) for cell in cells):
        return find_finished(plan.store, here)
    return here


def step(plan: Plan, model: Model) -> Step:
    """The step of ``model`` on this machine."""
    config, content = plan.config, model.settings.content
    recipe = {name: value for name, value in content.items() if name not in _INDIFFERENT}
    recipe["lora"] = {"rank": model.settings.lora.rank} if model.settings.method == "lora" else {}
    machine = {**throughput.machine(), "device": config.engine.device, "slots": config.engine.slots}
    params = {"recipe": recipe, "machine": machine, **model.params}
    return STAGE.step(
        f"probe {model.name}",
        params,
        plan.training_inputs(model),
        {"candidate": model.name, "model": str(model.folder), "device": config.engine.device},
        timeout_seconds=60 * config.engine.cell_timeout_minutes,
        weight=model.work,
    )


def build(context: BuildContext) -> None:
    from lensllm.models import cost, load

    device = load.choose_device(context.hints["device"])
    meter = Meter(device)
    recipe = FineTune.model_validate(context.params["recipe"])
    ready, examples, load_seconds = _load(context, recipe, device)
    shape = cost.shape_of(ready.model)

    def train_flops(some: Sequence[Example]) -> float:
        return cost.train_flops(shape, some, epochs=1)

    def forward_flops(some: Sequence[Example]) -> float:
        return cost.forward_flops(shape, some)

    found = throughput.measure_throughput(
        ready.model,
        examples,
        recipe,
        device=device,
        dtype=ready.dtype,
        train_flops=train_flops,
        forward_flops=forward_flops,
    )
    row = {
        "candidate": context.hints["candidate"],
        "device": str(device),
        "precision": ready.precision,
        "parameters": load.count_parameters(ready.model),
        "train_flops_per_example": train_flops(examples) / len(examples),
        "evaluation_flops_per_example": forward_flops(examples) / len(examples),
        **vars(found),
        "load_seconds": load_seconds,
        "seconds": meter.seconds(),
        "peak_memory_bytes": meter.peak_memory_bytes(),
    }
    context.write("probe/throughput", [row])


def _load(
    context: BuildContext, recipe: FineTune, device: torch.device
) -> tuple[Prepared, list[Example], float]:
    """Load as a cell does: the model, its training examples, and the seconds of both."""
    _import_code(Path(context.hints["model"]))
    ready, examples, seconds = _load_once(context, recipe, device)
    if seconds < _QUICK_LOAD_SECONDS:
        del ready
        ready, examples, again = _load_once(context, recipe, device)
        seconds = min(seconds, again)
    return ready, examples, seconds


def _import_code(folder: Path) -> None:
    """Import the architecture, once in a process; on a busy machine this dominates."""
    import torch

    from lensllm.models import load

    with torch.device("meta"):
        load.from_config(load.load_config(folder))


def _load_once(
    context: BuildContext, recipe: FineTune, device: torch.device
) -> tuple[Prepared, list[Example], float]:
    from lensllm.data.tokens import select
    from lensllm.models.prepare import prepare

    begin = time.perf_counter()
    ready = prepare(Path(context.hints["model"]), recipe, 0, device)
    ready.model.to(device)
    tokens = context.table("tokens", "examples")
    examples = select(tokens, split_rows(context.store, context.upstream["sample"], "train"))
    return ready, examples, time.perf_counter() - begin


def read(store: Store, ref: Ref) -> Throughput:
    """The throughput that a finished probe measured."""
    return Throughput.from_row(first_row("throughput")(store, ref))


def find_finished(store: Store, wanted: Step) -> Step | None:
    """The step ``wanted`` if it is made, or else the same as it was made on another machine."""
    if store.has(wanted.ref):
        return wanted
    upstream = {role: [ref.stage, ref.key] for role, ref in wanted.recipe.upstream.items()}
    for ref in store.refs("probe"):
        found = store.manifest(ref)
        same = found["version"] == STAGE.version and found["upstream"] == upstream
        if same and _anywhere(found["params"]) == _anywhere(wanted.recipe.params):
            return replace(wanted, recipe=replace(wanted.recipe, params=found["params"]))
    return None


def _anywhere(params: Any) -> dict[str, Any]:
    return {name: value for name, value in params.items() if name != "machine"}


def note(store: Store, ref: Ref) -> str:
    """Seconds per step and FLOPs per second."""
    row = store.table(ref, "throughput").iloc[0]
    return f"{row['step_seconds']:.3g} s a step, {row['train_flops_per_second']:.2g} FLOP/s"


STAGE = Stage(
    name="probe",
    version=2,
    tables=("probe/throughput",),
    plan=per_candidate(planned),
    build=build,
    note=note,
    in_report=True,
)
