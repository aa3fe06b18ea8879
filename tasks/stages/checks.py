"""checks: numbered findings that say how far the ranking is to be trusted.

Key: curves, laws, ranking, a policy's decisions, the curvature, the findings about the data, and
the version of every check: a changed check needs no higher version of the stage.
Tables: ``findings``, ``outcomes``.
"""

from collections.abc import Mapping

import pandas as pd

from lensllm.diagnostics.checks import (
    RANKING_CHECKS,
    RankingEvidence,
    check_ranking,
    outcomes,
    versions,
    with_examples,
)
from lensllm.store.artifacts import Recipe, Ref, write_table
from tasks.base.goal import Goal
from tasks.base.stage import Step, Work
from tasks.stages import curvature, curve, decision

VERSION = 3
READS = ("curvature", "crossing", "inspection")  # stages of which it takes all there is


def step(goal: Goal, upstream: Mapping[str, Ref]) -> Step:
    """``upstream`` has curve, law, ranking and, where there are, decision:… or simulation,
    curvature:…, crossing and inspection."""
    params = {
        **goal.curve_params,
        "target": goal.target,
        "predictor": goal.ranking.predictor,
        "checks": versions(RANKING_CHECKS),
    }
    return Step("checks", Recipe("checks", VERSION, params, upstream), in_worker=False)


def build(work: Work) -> None:
    params = work.params
    predictions = work.store.table(work.upstream["ranking"], "predictions")
    mine = predictions["predictor"] == params["predictor"]
    last = predictions["budget"] == predictions["budget"].max()
    cells = work.store.table(work.upstream["curve"], "cells")
    tokenizers = dict(cells[["candidate", "tokenizer"]].drop_duplicates().itertuples(index=False))
    decisions = decision.of(work.store, work.upstream)
    evidence = RankingEvidence(
        curves=curve.read(work),
        target=params["target"],
        metric=params["metric"],
        predictions=predictions[mine & last],
        fits=work.store.table(work.upstream["law"], "fits"),
        tokenizers=tokenizers if any(tokenizers.values()) else None,
        dropped=frozenset(decisions.loc[decisions["dropped"] != "", "candidate"]),
        budget=params["budget"],
        **_curvature(work),
    )
    found, asked = check_ranking(evidence), outcomes(RANKING_CHECKS, evidence)
    if inspection := work.upstream.get("inspection"):
        found = pd.concat([with_examples(work.store.table(inspection, "findings")), found])
        asked = pd.concat([work.store.table(inspection, "outcomes"), asked])
    write_table(work.folder, "checks/findings", found)
    write_table(work.folder, "checks/outcomes", asked)


def _curvature(work: Work) -> dict[str, pd.DataFrame]:
    """The tables about the curvature, where it was measured."""
    if "crossing" not in work.upstream:
        return {}
    return {
        "bounds": curvature.read(work, "bound"),
        "layers": curvature.read(work, "layers"),
        "crossings": work.store.table(work.upstream["crossing"], "candidates"),
    }
