"""kernel: the residual kernel of one candidate at its pretrained weights.

Key: model, tokens, sample and the settings; of a candidate with adapters, whose kernel is that of
the weights it trains, rank, scale and seed of these. Tables: ``spectrum``, ``matrix``, ``summary``.
"""

from pathlib import Path
from typing import Any

from lensllm.config.sections import Lora, Pipeline
from lensllm.core.meter import Meter
from lensllm.spectra.spectrum import Spectrum
from lensllm.store.artifacts import Ref, Store
from tasks.base.model import Model
from tasks.base.plan import Plan, per_candidate
from tasks.base.stage import Stage
from tasks.base.step import BuildContext, Step, first_row
from tasks.base.training import split_rows


def step(plan: Plan, model: Model) -> Step | None:
    """The step of ``model``; None where the section is switched off."""
    config, settings = plan.config, plan.config.kernel
    if not settings.enabled:
        return None
    params = {
        "probes": settings.probes,
        "method": settings.method,
        "memory_gib": settings.memory_gib,
        **adapted(config, model),
        **model.params,
    }
    hints = {"candidate": model.name, "model": str(model.folder), "device": config.engine.device}
    upstream = plan.training_inputs(model)
    return STAGE.step(f"kernel {model.name}", params, upstream, hints, weight=model.work)


def adapted(config: Pipeline, model: Model) -> dict[str, Any]:
    """Parameters of a kernel's adapters; none where all weights are trained."""
    if model.settings.method == "full":
        return {}
    lora = {"rank": model.settings.lora.rank, "alpha": model.settings.lora.alpha}
    return {"lora": lora, "seed": config.seed}


def load_trainable(context: BuildContext, device: Any) -> Any:
    """The pretrained model; with adapters, as they are before the first step, where it has any."""
    from lensllm.core import seeds
    from lensllm.models import adapters, load

    model = load.load_model(Path(context.hints["model"]))
    if "lora" in context.params:
        cell = seeds.integer(context.params["seed"], "cell", 0)  # the kernel is that of repeat 0
        settings = Lora(**context.params["lora"])
        model = adapters.add(model, settings, seeds.integer(cell, "adapters"))
    return model.to(device)


def build(context: BuildContext) -> None:
    from lensllm.data.tokens import select
    from lensllm.models import cost, load
    from lensllm.ntk import residual_kernel

    device = load.choose_device(context.hints["device"])
    meter = Meter(device)
    model = load_trainable(context, device)
    tokens = context.table("tokens", "examples")
    rows = split_rows(context.store, context.upstream["sample"], "train")[
        : context.params["probes"]
    ]
    probes = select(tokens, rows)
    kernel = residual_kernel(
        model,
        probes,
        method=context.params["method"],
        memory_bytes=int(context.params["memory_gib"] * 2**30),
    )
    context.write(
        "kernel/spectrum",
        [
            {"index": k, "eigenvalue": value, "projection_squared": projection}
            for k, (value, projection) in enumerate(
                zip(kernel.spectrum.eigenvalues, kernel.spectrum.projections_squared, strict=True)
            )
        ],
    )
    context.write(
        "kernel/matrix",
        [
            {"row": i, "residual_norm": norm, "kernel": line.tolist()}
            for i, (norm, line) in enumerate(zip(kernel.residual_norms, kernel.matrix, strict=True))
        ],
    )
    summary = {
        "candidate": context.hints["candidate"],
        "probes": len(probes),
        "parameters": load.count_parameters(model),
        "flops": cost.train_flops(cost.shape_of(model), probes, epochs=1),
        "method": kernel.computation.method,
        "passes": kernel.computation.passes,
        "reason": kernel.computation.reason,
        "relative_error": kernel.relative_error,
        "seconds": meter.seconds(),
        "peak_memory_bytes": meter.peak_memory_bytes(),
    }
    context.write("kernel/summary", [summary])


def note(store: Store, ref: Ref) -> str:
    """The method, its passes and the reason for it."""
    row = store.table(ref, "summary").iloc[0]
    return f"{row['method']}, {row['passes']} passes: {row['reason']}"


def read_spectrum(store: Store, ref: Ref) -> Spectrum:
    """The spectrum of a finished kernel."""
    table = store.table(ref, "spectrum")
    return Spectrum(table["eigenvalue"].to_numpy(), table["projection_squared"].to_numpy())


def mlflow_row(store: Store, ref: Ref) -> dict[str, Any]:
    """The summary with the spectrum's largest eigenvalue, trace and residual."""
    spectrum = read_spectrum(store, ref)
    return {
        **first_row("summary")(store, ref),
        "largest_eigenvalue": float(spectrum.eigenvalues[0]),
        "trace": float(spectrum.eigenvalues.sum()),
        "initial_residual": float(spectrum.residual(0.0)),
    }


STAGE = Stage(
    name="kernel",
    version=2,
    tables=("kernel/spectrum", "kernel/matrix", "kernel/summary"),
    plan=per_candidate(step),
    build=build,
    note=note,
    mlflow=mlflow_row,
    flops=lambda store, ref: float(store.table(ref, "summary")["flops"].sum()),
    expected_flops=lambda plan, model, throughput: (
        plan.config.kernel.probes * throughput.train_flops_per_example
    ),
    in_report=True,
)
