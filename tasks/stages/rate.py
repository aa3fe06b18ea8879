"""rate: the learning rate of one candidate, chosen among a few on the smallest subset.

Key: the cells of the smallest size at each rate. Table: ``rates``. The choice is made by the loss
on the validation set, never on the test set; the candidate's other cells have this artefact
upstream.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from lensllm.core.errors import ModelError
from lensllm.store.artifacts import Recipe, Ref, Store, write_table
from tasks.base.models import Model
from tasks.base.stage import Step, Work

VERSION = 2


def step(model: Model, trials: Mapping[float, Step]) -> Step:
    """``trials`` are the candidate's cells of the smallest size by learning rate."""
    upstream = {f"{value:.17g}": trial.ref for value, trial in trials.items()}
    return Step(
        f"learning rate {model.name}",
        Recipe("rate", VERSION, {}, upstream),
        {"candidate": model.name},
        in_worker=False,
    )


def build(work: Work) -> None:
    rows = []
    for value, ref in sorted(work.upstream.items(), key=lambda item: float(item[0])):
        cell = work.store.table(ref, "cell").iloc[0]
        rows.append(
            {
                "learning_rate": float(value),
                "size": int(cell["size"]),
                "validation_nats_per_token": float(cell["validation_nats_per_token"]),
                "best_epoch": int(cell["best_epoch"]),
                "seconds": float(cell["seconds"]),
                "flops": float(cell["train_flops"] + cell["evaluation_flops"]),
            }
        )
    table = pd.DataFrame(rows)
    if not (table["validation_nats_per_token"] < math.inf).any():
        tried = ", ".join(f"{value:g}" for value in table["learning_rate"])
        raise ModelError(f"all of {tried} diverge; add smaller ones to finetune.learning_rates")
    best = table["validation_nats_per_token"].idxmin()
    table["chosen"] = table.index == best
    write_table(work.folder, "rate/rates", table)


def chosen(store: Store, ref: Ref) -> float:
    """The learning rate chosen."""
    return float(_chosen(store.table(ref, "rates"))["learning_rate"])


def remark(store: Store, ref: Ref) -> str:
    table = store.table(ref, "rates")
    rate, others = chosen(store, ref), table["learning_rate"]
    said = f"learning rate {rate:g} of {', '.join(f'{o:g}' for o in others)}"
    if rate == others.max():
        return f"{said}: the largest tried, a larger one may be better"
    if rate == others.min():
        return f"{said}: the smallest tried, a smaller one may be better"
    return said


def tracked(store: Store, ref: Ref) -> dict[str, Any]:
    """What MLflow shows of a choice."""
    row = _chosen(store.table(ref, "rates"))
    names = ("size", "learning_rate", "validation_nats_per_token", "best_epoch")
    return {name: row[name] for name in names}


def _chosen(table: pd.DataFrame) -> pd.Series[Any]:
    return table[table["chosen"]].iloc[0]
