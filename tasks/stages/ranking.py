"""ranking: every predictor's ranking at the target, its score where that was measured, the cost.

Key: every predictor's answers, curves, decisions, target, budgets, the ranking's settings, and the
kernels, curvatures and learning-rate trials whose cost is counted. Tables: ``predictions``,
``scores``, ``comparison``, ``weights``, ``skipped``, ``cost``.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from lensllm.config.sections import Pipeline
from lensllm.core.errors import ConfigError, DataError
from lensllm.predictors import DEFAULT_PRIOR, PREDICTORS, check_name, needed_sizes
from lensllm.selection.answers import stored_answers
from lensllm.selection.policy import deciding_predictor, first_round
from lensllm.selection.ranking import rank
from lensllm.store.artifacts import Recipe, Ref, write_table
from tasks.base.cell import Cell
from tasks.base.goal import Goal, configured, read_question, read_registry
from tasks.base.roles import labelled, roles
from tasks.base.stage import Step, Work
from tasks.stages import curve, decision, prediction

VERSION = 2


def step(goal: Goal, upstream: Mapping[str, Ref], predictions: Mapping[str, Step]) -> Step:
    """``upstream`` has curve and, by label, kernel:…, curvature:…, rate:… and decision:….

    A replay with a policy has simulation in place of the last. ``predictions`` are the steps of
    ``tasks.stages.prediction``.
    """
    params = {
        **goal.curve_params,
        **goal.question_params,
        "predictors": goal.predictor_params(PREDICTORS),
    }
    kinds = ("kernel", "curvature", "rate", "decision", "simulation")
    read = curve.predictor_inputs(upstream, [], kinds)
    answers = roles("prediction", {name: step.ref for name, step in predictions.items()})
    return Step("ranking", Recipe("ranking", VERSION, params, {**read, **answers}), in_worker=False)


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


def build(work: Work) -> None:
    params = work.params
    cells = work.store.table(work.upstream["curve"], "cells")
    curves = curve.read(work)
    question = read_question(params, read_registry(params, DEFAULT_PRIOR))
    found = labelled(work.upstream, "prediction").items()
    answers = stored_answers((name, prediction.read(work.store, ref)) for name, ref in found)
    dropped = decision.dropped(work.store, work.upstream)
    ranking = rank(curves, question, curve.read_truth(work, curves), dropped, answers)
    lacking = ranking.skipped[
        (ranking.skipped["predictor"] == question.reference)
        & (ranking.skipped["budget"] == curves.sizes[-1])
    ]
    for reason in lacking["reason"]:
        raise DataError(f"ranking.predictor: {question.reference} cannot answer. {reason}")
    for table, rows in vars(ranking).items():
        write_table(work.folder, f"ranking/{table}", rows)
    write_table(work.folder, "ranking/cost", _cost(work, curves.candidates, cells))


def _cost(work: Work, candidates: Sequence[str], cells: pd.DataFrame) -> pd.DataFrame:
    """FLOPs spent up to the budget against fine-tuning on the target once, per candidate."""
    total = cells["train_flops"] + cells["evaluation_flops"]
    costs = cells[["candidate", "size"]].assign(flops=total)
    means = costs[costs["size"] > 0].groupby(["candidate", "size"])["flops"].mean()
    of = {name: flops.droplevel(0) for name, flops in means.groupby(level=0)}
    paid = costs["flops"].where(costs["size"] <= work.params["budget"], 0.0)
    spent = paid.groupby(costs["candidate"]).sum(skipna=False).to_dict()
    for name, flops in _beside_cells(work):
        if name in spent:  # a candidate without any cell is not ranked
            spent[name] += flops
    rows = [
        {
            "candidate": name,
            "spent_flops": spent[name],
            "full_flops": _full_flops(of.get(name), work.params["target"]),
        }
        for name in candidates
    ]
    return pd.DataFrame(rows)


def _beside_cells(work: Work) -> Iterator[tuple[str, float]]:
    """FLOPs of kernels, learning-rate trials and curvatures, each with its candidate."""
    for name, ref in labelled(work.upstream, "kernel").items():
        yield name, float(work.store.table(ref, "summary")["flops"].sum())
    for name, ref in labelled(work.upstream, "rate").items():
        tried = work.store.table(ref, "rates")
        yield name, float(tried.loc[~tried["chosen"], "flops"].sum())  # that one is a cell
    for label, ref in labelled(work.upstream, "curvature").items():
        yield Cell.parse(label).candidate, float(work.store.table(ref, "bound")["flops"].sum())


def _full_flops(flops: pd.Series | None, target: int) -> float:
    """FLOPs at ``target``, on the line through a candidate's means by size D > 0; NaN without."""
    if flops is None:
        return math.nan
    if target in flops.index:
        return float(flops[target])
    largest, smallest = flops.index.max(), flops.index.min()
    if largest == smallest:
        return float(flops[largest] * target / largest)
    slope = (flops[largest] - flops[smallest]) / (largest - smallest)
    return float(flops[largest] + slope * (target - largest))
