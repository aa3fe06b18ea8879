"""heavy_tails: the exponents of one candidate's pretrained weight spectra.

Key: model. Table: ``summary``.
"""

from pathlib import Path

from lensllm.core.meter import Meter
from lensllm.store.artifacts import Ref, Store
from tasks.base.model import Model
from tasks.base.plan import Plan, per_candidate
from tasks.base.stage import Stage
from tasks.base.step import BuildContext, Step, first_row


def step(plan: Plan, model: Model) -> Step | None:
    """The step of ``model``; None unless the section is switched on."""
    if not plan.config.heavy_tails.enabled:
        return None
    hints = {"candidate": model.name, "model": str(model.folder)}
    label = f"heavy tails {model.name}"
    return STAGE.step(label, model.params, model.upstream, hints, weight=model.work)


def build(context: BuildContext) -> None:
    import torch

    from lensllm.diagnostics import heavy_tails
    from lensllm.models import load

    meter = Meter(torch.device("cpu"))
    found = heavy_tails.measure(load.load_model(Path(context.hints["model"])))
    summary = {
        "candidate": context.hints["candidate"],
        **vars(found),
        "seconds": meter.seconds(),
    }
    context.write("heavy_tails/summary", [summary])


def read(store: Store, ref: Ref) -> dict[str, float]:
    """The values of ``Curves.weight_metrics`` of one candidate, by name."""
    row = store.table(ref, "summary").iloc[0]
    return {name: float(row[name]) for name in ("pl_alpha", "e_tpl_lambda")}


STAGE = Stage(
    name="heavy_tails",
    version=1,
    tables=("heavy_tails/summary",),
    plan=per_candidate(step),
    build=build,
    mlflow=first_row("summary"),
)
