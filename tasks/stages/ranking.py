"""ranking: every predictor's ranking at the target, its score where that was measured, the cost.

Key: every predictor's answers, curves, decisions, target, budgets, the ranking's settings, and the
kernels, curvatures and learning-rate trials whose cost is counted. Tables: ``predictions``,
``scores``, ``comparison``, ``weights``, ``skipped``, ``cost``.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from lensllm.config.sections import Pipeline
from lensllm.core.errors import ConfigError, DataError
from lensllm.predictors import DEFAULT_PRIOR, PREDICTORS, check_name, needed_sizes
from lensllm.selection.answers import stored_answers
from lensllm.selection.policy import deciding_predictor, first_round
from lensllm.selection.ranking import rank
from tasks.base.goal import configured, read_question, read_registry
from tasks.base.plan import RankingPlan, per_ranking
from tasks.base.stage import Stage
from tasks.base.step import BuildContext, Step
from tasks.stages import curve, decision, prediction


def step(plan: RankingPlan) -> Step:
    """The step of the ranking by every predictor's answers."""
    params = {
        **plan.goal.curve_params,
        **plan.goal.question_params,
        "predictors": plan.goal.predictor_params(PREDICTORS),
    }
    counted = [name for name, stage in plan.stages.items() if stage.flops]
    upstream = {**plan.refs("curve", *counted, "prediction"), **plan.decisions}
    return STAGE.step("ranking", params, upstream)


def check(config: Pipeline) -> None:
    """Raise ``ConfigError`` now, not after the sweep, when the predictor cannot answer."""
    check_name(config.ranking.predictor, "ranking.predictor")
    name, policy, registry = config.ranking.predictor, config.sweep.policy, configured(config.law)
    needed, sizes = needed_sizes(name, registry), config.sweep.sizes
    if len(sizes) < needed:
        raise ConfigError(
            f"ranking.predictor: {name} needs {needed} subset sizes and the sweep has "
            f"{len(sizes)} ({', '.join(map(str, sizes))}); lower sweep.min or raise sweep.max"
        )
    if policy == "all":
        return
    decides = deciding_predictor(policy, name)
    known = first_round(np.array(sizes, dtype=float))
    if known < (needed := needed_sizes(decides, registry)):
        raise ConfigError(
            f"sweep.policy: {policy} decides by {decides}, which needs {needed} subset sizes, and "
            f"begins with {known} ({', '.join(map(str, sizes[:known]))}); "
            "lower sweep.growth or choose all"
        )


def build(context: BuildContext) -> None:
    params = context.params
    cells = context.table("curve", "cells")
    curves = curve.read(context)
    question = read_question(params, read_registry(params, DEFAULT_PRIOR))
    found = context.each("prediction").items()
    answers = stored_answers((name, prediction.read(context.store, ref)) for name, ref in found)
    dropped = decision.dropped(context.store, context.upstream)
    ranking = rank(curves, question, curve.read_truth(context, curves), dropped, answers)
    lacking = ranking.skipped[
        (ranking.skipped["predictor"] == question.reference)
        & (ranking.skipped["budget"] == curves.sizes[-1])
    ]
    for reason in lacking["reason"]:
        raise DataError(f"ranking.predictor: {question.reference} cannot answer. {reason}")
    for table, rows in vars(ranking).items():
        context.write(f"ranking/{table}", rows)
    context.write("ranking/cost", _cost(context, curves.candidates, cells))


def _cost(context: BuildContext, candidates: Sequence[str], cells: pd.DataFrame) -> pd.DataFrame:
    """FLOPs spent up to the budget against fine-tuning on the target once, per candidate.

    The branches of a candidate and repeat share a trunk, that of the largest.
    """
    own, trunk = cells["train_flops"] + cells["evaluation_flops"], cells["trunk_flops"]
    whole = cells.assign(flops=own + trunk)
    means = whole[whole["size"] > 0].groupby(["candidate", "size"])["flops"].mean()
    of = {name: flops.droplevel(0) for name, flops in means.groupby(level=0)}
    paid = cells.assign(own=own)[cells["size"] <= context.params["budget"]]
    runs = paid.groupby(["candidate", "repeat"]).agg(
        own=("own", lambda flops: flops.sum(skipna=False)), trunk=("trunk_flops", "max")
    )
    spent = runs.sum(axis=1, skipna=False).groupby("candidate").sum(min_count=1).to_dict()
    for name, flops in _other_flops(context):
        if name in spent:  # a candidate without any cell is not ranked
            spent[name] += flops
    params = context.params
    rows = [
        {
            "candidate": name,
            "spent_flops": spent[name],
            "full_flops": _full_flops(of.get(name), params["target"], params.get("epochs", 1)),
        }
        for name in candidates
    ]
    return pd.DataFrame(rows)


def _other_flops(context: BuildContext) -> Iterator[tuple[str, float]]:
    """FLOPs of the stages that count theirs and train no cell, each with its candidate."""
    from tasks.stages import STAGES  # not at the top: this module is one of them

    for name, stage in STAGES.items():
        if stage.flops:
            for label, ref in context.each(name).items():
                yield label.partition("|")[0], stage.flops(context.store, ref)


def _full_flops(flops: pd.Series | None, target: int, epochs: int) -> float:
    """FLOPs at ``target``, on the line through a candidate's means by size D > 0; NaN without.

    ``epochs`` is how often the target is read for each time that the other sizes are.
    """
    if flops is None:
        return math.nan
    if target in flops.index:
        return float(flops[target])
    largest, smallest = flops.index.max(), flops.index.min()
    if largest == smallest:
        return float(flops[largest] * epochs * target / largest)
    slope = (flops[largest] - flops[smallest]) / (largest - smallest)
    return float(flops[largest] + slope * (epochs * target - largest))


STAGE = Stage(
    name="ranking",
    version=2,
    tables=(
        "ranking/predictions",
        "ranking/scores",
        "ranking/comparison",
        "ranking/weights",
        "ranking/skipped",
        "ranking/cost",
    ),
    plan=per_ranking(step),
    build=build,
    in_worker=False,
)
