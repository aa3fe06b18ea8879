"""kernel: the residual kernel of one candidate at its pretrained weights.

Key: model, tokens, sample and the settings; of a candidate with adapters, whose kernel is that of
the weights it trains, rank, scale and seed of these. Tables: ``spectrum``, ``matrix``, ``summary``.
"""

from pathlib import Path
from typing import Any

from lensllm.config.sections import Lora, Pipeline
from lensllm.core.meter import Meter
from lensllm.spectra.spectrum import Spectrum
from lensllm.store.artifacts import Recipe, Ref, Store, write_table
from tasks.base.models import Model
from tasks.base.stage import Step, Work
from tasks.stages import sample

VERSION = 2


def step(config: Pipeline, model: Model, tokens: Ref, roles: Ref) -> Step:
    settings = config.kernel
    params = {
        "probes": settings.probes,
        "method": settings.method,
        "memory_gib": settings.memory_gib,
        **adapted(config, model),
        **model.params,
    }
    recipe = Recipe(
        "kernel", VERSION, params, {"tokens": tokens, "sample": roles, **model.upstream}
    )
    hints = {"candidate": model.name, "model": str(model.folder), "device": config.engine.device}
    return Step(f"kernel {model.name}", recipe, hints, weight=model.work)


def adapted(config: Pipeline, model: Model) -> dict[str, Any]:
    """What the key of a kernel has of adapters: nothing where all weights are trained."""
    if model.settings.method == "full":
        return {}
    lora = {"rank": model.settings.lora.rank, "alpha": model.settings.lora.alpha}
    return {"lora": lora, "seed": config.seed}


def load_trainable(work: Work, device: Any) -> Any:
    """The pretrained model; with adapters, as they are before the first step, where it has any."""
    from lensllm.core import seeds
    from lensllm.models import adapters, load

    model = load.load_model(Path(work.hints["model"]))
    if "lora" in work.params:
        cell = seeds.integer(work.params["seed"], "cell", 0)  # the kernel is that of repeat 0
        settings = Lora(**work.params["lora"])
        model = adapters.add(model, settings, seeds.integer(cell, "adapters"))
    return model.to(device)


def build(work: Work) -> None:
    from lensllm.data.tokens import select
    from lensllm.models import cost, load
    from lensllm.ntk import residual_kernel

    device = load.choose_device(work.hints["device"])
    meter = Meter(device)
    model = load_trainable(work, device)
    tokens = work.store.table(work.upstream["tokens"], "examples")
    rows = sample.rows(work.store, work.upstream["sample"], "train")[: work.params["probes"]]
    probes = select(tokens, rows)
    kernel = residual_kernel(
        model,
        probes,
        method=work.params["method"],
        memory_bytes=int(work.params["memory_gib"] * 2**30),
    )
    write_table(
        work.folder,
        "kernel/spectrum",
        [
            {"index": k, "eigenvalue": value, "projection_squared": projection}
            for k, (value, projection) in enumerate(
                zip(kernel.spectrum.eigenvalues, kernel.spectrum.projections_squared, strict=True)
            )
        ],
    )
    write_table(
        work.folder,
        "kernel/matrix",
        [
            {"row": i, "residual_norm": norm, "kernel": line.tolist()}
            for i, (norm, line) in enumerate(zip(kernel.residual_norms, kernel.matrix, strict=True))
        ],
    )
    summary = {
        "candidate": work.hints["candidate"],
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
    write_table(work.folder, "kernel/summary", [summary])


def remark(store: Store, ref: Ref) -> str:
    """How the kernel was computed, and why so."""
    row = store.table(ref, "summary").iloc[0]
    return f"{row['method']}, {row['passes']} passes: {row['reason']}"


def read_spectrum(store: Store, ref: Ref) -> Spectrum:
    """The spectrum of a finished kernel."""
    table = store.table(ref, "spectrum")
    return Spectrum(table["eigenvalue"].to_numpy(), table["projection_squared"].to_numpy())


def tracked(store: Store, ref: Ref) -> dict[str, Any]:
    """What MLflow shows of a kernel."""
    spectrum = read_spectrum(store, ref)
    row: dict[str, Any] = store.table(ref, "summary").iloc[0].to_dict()
    return {
        **row,
        "largest_eigenvalue": float(spectrum.eigenvalues[0]),
        "trace": float(spectrum.eigenvalues.sum()),
        "initial_residual": float(spectrum.residual(0.0)),
    }
