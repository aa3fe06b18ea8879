"""checks: numbered findings that say how far the ranking is to be trusted.

Key: curves, laws, ranking and a policy's decisions. Table: ``findings``.
"""

from collections.abc import Mapping

from lensllm.checks import CHECKS, Context, examine
from lensllm.store import Recipe, Ref, write_table
from tasks import curve, decision
from tasks.goal import Goal
from tasks.stage import Step, Work

VERSION = 1


def step(goal: Goal, upstream: Mapping[str, Ref]) -> Step:
    """``upstream`` has curve, law, ranking and, where there are, decision:… or simulation."""
    params = {
        **goal.curve_params,
        "target": goal.target,
        "predictor": goal.ranking.predictor,
        "checks": list(CHECKS),
    }
    return Step("checks", Recipe("checks", VERSION, params, upstream), in_worker=False)


def build(work: Work) -> None:
    params = work.params
    predictions = work.store.table(work.upstream["ranking"], "predictions")
    mine = predictions["predictor"] == params["predictor"]
    last = predictions["budget"] == predictions["budget"].max()
    cells = work.store.table(work.upstream["curve"], "cells")
    tokenizers = dict(cells[["candidate", "tokenizer"]].drop_duplicates().itertuples(index=False))
    decisions = decision.of(work)
    found = examine(
        Context(
            curves=curve.read(work),
            target=params["target"],
            metric=params["metric"],
            predictions=predictions[mine & last],
            fits=work.store.table(work.upstream["law"], "fits"),
            tokenizers=tokenizers if any(tokenizers.values()) else None,
            dropped=frozenset(decisions.loc[decisions["dropped"] != "", "candidate"]),
        )
    )
    write_table(work.folder, "checks/findings", found)
