"""ranking: every predictor's answer at the target, its score where there is a truth, and the cost.

Key: curves, kernels, weight metrics, curves of the past, target, budgets and the ranking's
settings. Tables: ``predictions``, ``scores``, ``comparison``, ``weights``, ``skipped``, ``cost``.
"""

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from lensllm.config import Pipeline
from lensllm.errors import ConfigError, DataError, suggestion
from lensllm.predictors import PREDICTORS
from lensllm.ranking import Question, rank
from lensllm.store import Recipe, Ref, write_table
from tasks import curve
from tasks.cell import Cell
from tasks.goal import Goal
from tasks.stage import Step, Work

VERSION = 2


def step(goal: Goal, upstream: Mapping[str, Ref]) -> Step:
    """``upstream`` has curve, and kernel:…, heavy_tails:…, curvature:…, past:… by label."""
    params = {
        **goal.curve_params,
        **goal.question_params,
        "predictors": list(PREDICTORS),
    }
    return Step("ranking", Recipe("ranking", VERSION, params, upstream), in_worker=False)


def check(config: Pipeline) -> None:
    """Raise ``ConfigError`` now, not after the sweep, when the predictor cannot answer."""
    check_name(config.ranking.predictor, "ranking.predictor")
    name = config.ranking.predictor
    needed, sizes = PREDICTORS[name].needed_sizes, config.sweep.sizes
    if len(sizes) < needed:
        raise ConfigError(
            f"ranking.predictor: {name} needs {needed} subset sizes and the sweep has "
            f"{len(sizes)} ({', '.join(map(str, sizes))}); lower sweep.min or raise sweep.max"
        )


def check_name(name: str, where: str) -> None:
    """Raise ``ConfigError`` when there is no predictor ``name``."""
    if name not in PREDICTORS:
        raise ConfigError(
            f"{where}: no predictor '{name}'{suggestion(name, PREDICTORS)}; "
            f"there are {', '.join(PREDICTORS)}"
        )


def build(work: Work) -> None:
    params = work.params
    cells = work.store.table(work.upstream["curve"], "cells")
    curves = curve.read(work)
    at_target = cells[cells["size"] == params["target"]]
    measured = at_target.groupby("candidate")[params["metric"]].mean()
    truth = measured.reindex(list(curves.candidates)).to_numpy() if len(measured) else None
    question = read_question(work)
    ranking = rank(curves, question, truth)
    lacking = ranking.skipped[
        (ranking.skipped["predictor"] == question.reference)
        & (ranking.skipped["budget"] == question.budgets[-1])
    ]
    for reason in lacking["reason"]:
        raise DataError(f"ranking.predictor: {question.reference} cannot answer. {reason}")
    for table, rows in vars(ranking).items():
        write_table(work.folder, f"ranking/{table}", rows)
    write_table(work.folder, "ranking/cost", _cost(work, curves.candidates, cells))


def read_question(work: Work) -> Question:
    """The question in the parameters of a stage."""
    params = work.params
    return Question(
        target=params["target"],
        budgets=tuple(params["budgets"]),
        predictors=tuple(params["predictors"]),
        reference=params["reference"],
        seed=params["seed"],
        draws=params["draws"],
    )


def _cost(work: Work, candidates: Sequence[str], cells: pd.DataFrame) -> pd.DataFrame:
    """FLOPs spent up to the budget against fine-tuning on the target once, per candidate."""
    spent = dict.fromkeys(candidates, 0.0)
    for cell in cells[cells["size"] <= work.params["budget"]].itertuples():
        spent[cell.candidate] += cell.train_flops + cell.evaluation_flops
    for role, ref in work.upstream.items():
        kind, _, label = role.partition(":")
        if kind == "kernel" and label in spent:
            spent[label] += float(work.store.table(ref, "summary")["flops"].sum())
        elif kind == "curvature" and Cell.parse(label).candidate in spent:
            flops = work.store.table(ref, "bound")["flops"].sum()
            spent[Cell.parse(label).candidate] += float(flops)
    rows = [
        {
            "candidate": name,
            "spent_flops": spent[name],
            "full_flops": _full_flops(cells[cells["candidate"] == name], work.params["target"]),
        }
        for name in candidates
    ]
    return pd.DataFrame(rows)


def _full_flops(cells: pd.DataFrame, target: int) -> float:
    """FLOPs at ``target`` from a line through a candidate's cells with D > 0; NaN without any."""
    trained = cells[cells["size"] > 0]
    flops = (trained["train_flops"] + trained["evaluation_flops"]).groupby(trained["size"]).mean()
    if flops.empty:
        return math.nan
    if target in flops.index:
        return float(flops[target])
    largest, smallest = flops.index.max(), flops.index.min()
    if largest == smallest:
        return float(flops[largest] * target / largest)
    slope = (flops[largest] - flops[smallest]) / (largest - smallest)
    return float(flops[largest] + slope * (target - largest))
