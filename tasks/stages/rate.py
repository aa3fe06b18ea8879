"""rate: the learning rate of one candidate, chosen among a few on the smallest subset.

Key: the cells of the smallest size at each rate. Table: ``rates``. The choice is made by the loss
on the validation set, never on the test set; the candidate's other cells have this artefact
upstream.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from lensllm.core.errors import ModelError
from lensllm.store.artifacts import Ref, Store
from tasks.base.model import Model
from tasks.base.plan import Plan, per_candidate
from tasks.base.stage import Stage
from tasks.base.step import BuildContext, Step
from tasks.base.training import chosen_rate, remove_trunk
from tasks.stages import finetune


def step(plan: Plan, model: Model) -> Step | None:
    """The step of ``model``; None where its learning rate is given."""
    upstream = {f"{value:.17g}": s.ref for value, s in finetune.trials(plan, model).items()}
    if not upstream:
        return None
    return STAGE.step(f"learning rate {model.name}", {}, upstream, {"candidate": model.name})


def build(context: BuildContext) -> None:
    rows = []
    for value, ref in sorted(context.upstream.items(), key=lambda item: float(item[0])):
        cell = context.store.table(ref, "cell").iloc[0]
        rows.append(
            {
                "learning_rate": float(value),
                "size": int(cell["size"]),
                "validation_nats_per_token": float(cell["validation_nats_per_token"]),
                "best_epoch": int(cell["best_epoch"]),
                "seconds": float(cell["seconds"]),
                "flops": float(cell[["train_flops", "trunk_flops", "evaluation_flops"]].sum()),
            }
        )
    table = pd.DataFrame(rows)
    if not (table["validation_nats_per_token"] < math.inf).any():
        tried = ", ".join(f"{value:g}" for value in table["learning_rate"])
        raise ModelError(f"all of {tried} diverge; add smaller ones to finetune.learning_rates")
    best = table["validation_nats_per_token"].idxmin()
    table["chosen"] = table.index == best
    for value in table.loc[~table["chosen"], "learning_rate"]:
        remove_trunk(context.store, context.upstream[f"{value:.17g}"])
    context.write("rate/rates", table)


def note(store: Store, ref: Ref) -> str:
    """The rate chosen, the others, and whether a wider grid may pay."""
    table = store.table(ref, "rates")
    rate, others = chosen_rate(store, ref), table["learning_rate"]
    said = f"learning rate {rate:g} of {', '.join(f'{o:g}' for o in others)}"
    if rate == others.max():
        return f"{said}: the largest tried, a larger one may be better"
    if rate == others.min():
        return f"{said}: the smallest tried, a smaller one may be better"
    return said


def mlflow_row(store: Store, ref: Ref) -> dict[str, Any]:
    """The trial with the chosen rate."""
    table = store.table(ref, "rates")
    row = table[table["chosen"]].iloc[0]
    names = ("size", "learning_rate", "validation_nats_per_token", "best_epoch")
    return {name: row[name] for name in names}


def flops(store: Store, ref: Ref) -> float:
    """FLOPs of the trials, without the chosen one: that is a cell."""
    tried = store.table(ref, "rates")
    return float(tried.loc[~tried["chosen"], "flops"].sum())


STAGE = Stage(
    name="rate",
    version=2,
    tables=("rate/rates",),
    plan=per_candidate(step),
    build=build,
    in_worker=False,
    note=note,
    mlflow=mlflow_row,
    flops=flops,
    in_report=True,
)
