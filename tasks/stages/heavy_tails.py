"""heavy_tails: the exponents of one candidate's pretrained weight spectra.

Key: model. Table: ``summary``.
"""

from pathlib import Path
from typing import Any

from lensllm.core.meter import Meter
from lensllm.store.artifacts import Recipe, Ref, Store, write_table
from tasks.base.models import Model
from tasks.base.stage import Step, Work

VERSION = 1


def step(model: Model) -> Step:
    recipe = Recipe("heavy_tails", VERSION, model.params, model.upstream)
    hints = {"candidate": model.name, "model": str(model.folder)}
    return Step(f"heavy tails {model.name}", recipe, hints, weight=model.work)


def build(work: Work) -> None:
    import torch

    from lensllm.diagnostics import heavy_tails
    from lensllm.models import load

    meter = Meter(torch.device("cpu"))
    found = heavy_tails.measure(load.load_model(Path(work.hints["model"])))
    summary = {
        "candidate": work.hints["candidate"],
        **vars(found),
        "seconds": meter.seconds(),
    }
    write_table(work.folder, "heavy_tails/summary", [summary])


def read(store: Store, ref: Ref) -> dict[str, float]:
    """What ``Curves.weight_metrics`` holds of one candidate, by name."""
    row = store.table(ref, "summary").iloc[0]
    return {name: float(row[name]) for name in ("pl_alpha", "e_tpl_lambda")}


def tracked(store: Store, ref: Ref) -> dict[str, Any]:
    """What MLflow shows of a candidate's spectra."""
    row: dict[str, Any] = store.table(ref, "summary").iloc[0].to_dict()
    return row
