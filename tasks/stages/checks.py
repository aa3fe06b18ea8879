"""checks: numbered findings that say how far the ranking is to be trusted.

Key: curves, laws, ranking, a policy's decisions, the curvature, the findings about the data, and
the version of every check: a changed check needs no higher version of the stage.
Tables: ``findings``, ``outcomes``.
"""

import pandas as pd

from lensllm.diagnostics.checks import (
    RANKING_CHECKS,
    RankingEvidence,
    check_ranking,
    outcomes,
    versions,
    with_examples,
)
from tasks.base.plan import RankingPlan, per_ranking
from tasks.base.stage import Stage
from tasks.base.step import BuildContext, Step
from tasks.stages import curvature, curve, decision


def step(plan: RankingPlan) -> Step:
    """The step of the findings about one ranking."""
    goal = plan.goal
    params = {
        **goal.curve_params,
        "target": goal.target,
        "predictor": goal.ranking.predictor,
        "checks": versions(RANKING_CHECKS),
    }
    evidence = ("curve", "law", "ranking", "curvature", "crossing", "inspection")
    return STAGE.step("checks", params, {**plan.refs(*evidence), **plan.decisions})


def build(context: BuildContext) -> None:
    params = context.params
    predictions = context.table("ranking", "predictions")
    mine = predictions["predictor"] == params["predictor"]
    last = predictions["budget"] == predictions["budget"].max()
    cells = context.table("curve", "cells")
    tokenizers = dict(zip(cells["candidate"], cells["tokenizer"], strict=True))
    decisions = decision.of(context.store, context.upstream)
    evidence = RankingEvidence(
        curves=curve.read(context),
        target=params["target"],
        metric=params["metric"],
        predictions=predictions[mine & last],
        fits=context.table("law", "fits"),
        tokenizers=tokenizers if any(tokenizers.values()) else None,
        dropped=frozenset(decisions.loc[decisions["dropped"] != "", "candidate"]),
        budget=params["budget"],
        **_curvature(context),
    )
    found, asked = check_ranking(evidence), outcomes(RANKING_CHECKS, evidence)
    if inspection := context.upstream.get("inspection"):
        found = pd.concat([with_examples(context.store.table(inspection, "findings")), found])
        asked = pd.concat([context.store.table(inspection, "outcomes"), asked])
    context.write("checks/findings", found)
    context.write("checks/outcomes", asked)


def _curvature(context: BuildContext) -> dict[str, pd.DataFrame]:
    """The tables about the curvature, where it was measured."""
    if "crossing" not in context.upstream:
        return {}
    return {
        "bounds": curvature.read(context, "bound"),
        "layers": curvature.read(context, "layers"),
        "crossings": context.table("crossing", "candidates"),
    }


STAGE = Stage(
    name="checks",
    version=3,
    tables=("checks/findings", "checks/outcomes"),
    plan=per_ranking(step),
    build=build,
    in_worker=False,
)
