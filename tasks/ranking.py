"""ranking: every predictor's answer at the target, its score where there is a truth, and the cost.

Key: curves, kernels, target, budget and the ranking's settings. Tables: ``predictions``,
``scores``, ``cost``.
"""

from collections.abc import Mapping

import pandas as pd

from lensllm.config import Pipeline, suggestion
from lensllm.errors import ConfigError, DataError
from lensllm.predictors import PREDICTORS
from lensllm.ranking import rank
from lensllm.store import Recipe, Ref, Store, write_table
from tasks import law
from tasks.stage import Step, Work

VERSION = 1


def step(
    config: Pipeline,
    target: int,
    curve: Ref,
    kernels: Mapping[str, Ref],
    curvatures: Mapping[str, Ref],
) -> Step:
    params = {
        "target": target,
        "budget": config.sweep.max,
        "metric": config.ranking.metric,
        "draws": config.ranking.draws,
        "predictor": config.ranking.predictor,
        "predictors": list(PREDICTORS),
        "scale": config.law.scale,
        "seed": config.seed,
    }
    upstream = {
        "curve": curve,
        **{f"kernel:{name}": ref for name, ref in kernels.items()},
        **{f"curvature:{cell}": ref for cell, ref in curvatures.items()},
    }
    return Step("ranking", Recipe("ranking", VERSION, params, upstream), in_worker=False)


def check(config: Pipeline) -> None:
    """Raise ``ConfigError`` now, not after the sweep, when the predictor cannot answer."""
    name = config.ranking.predictor
    if name not in PREDICTORS:
        raise ConfigError(
            f"ranking.predictor: no predictor '{name}'{suggestion(name, PREDICTORS)}; "
            f"there are {', '.join(PREDICTORS)}"
        )
    needed, sizes = PREDICTORS[name].needed_sizes, config.sweep.sizes
    if len(sizes) < needed:
        raise ConfigError(
            f"ranking.predictor: {name} needs {needed} subset sizes and the sweep has "
            f"{len(sizes)} ({', '.join(map(str, sizes))}); lower sweep.min or raise sweep.max"
        )


def build(work: Work) -> None:
    params = work.params
    cells = work.store.table(work.upstream["curve"], "cells")
    curves = law.read_curves(work)
    at_target = cells[cells["size"] == params["target"]]
    measured = at_target.groupby("candidate")[params["metric"]].mean()
    truth = measured.reindex(list(curves.candidates)).to_numpy() if len(measured) else None
    ranking = rank(
        curves, params["target"], params["predictors"], truth, params["seed"], params["draws"]
    )
    if reason := ranking.skipped.get(params["predictor"]):
        raise DataError(f"ranking.predictor: {params['predictor']} cannot answer. {reason}")
    write_table(work.folder, "ranking/predictions", ranking.predictions)
    write_table(work.folder, "ranking/scores", ranking.scores)
    write_table(work.folder, "ranking/cost", _cost(work.store, cells, work))


def _cost(store: Store, cells: pd.DataFrame, work: Work) -> pd.DataFrame:
    """FLOPs spent up to the budget against fine-tuning on the target once, per candidate."""
    cells = cells.assign(flops=cells["train_flops"] + cells["evaluation_flops"])
    paid = cells[cells["size"] <= work.params["budget"]]
    spent = paid.groupby("candidate")["flops"].sum()
    for role, ref in work.upstream.items():
        kind, _, label = role.partition(":")
        if kind == "kernel":
            spent[label] += store.table(ref, "summary")["flops"].sum()
        elif kind == "curvature":
            spent[label.split("|")[0]] += store.table(ref, "bound")["flops"].sum()
    full = cells.groupby("candidate")[["size", "flops"]].apply(_full_flops, work.params["target"])
    table = pd.DataFrame({"spent_flops": spent, "full_flops": full})
    return table.rename_axis("candidate").reset_index()


def _full_flops(cells: pd.DataFrame, target: int) -> float:
    """FLOPs at ``target`` from a line through a candidate's cells with D > 0."""
    mean = cells[cells["size"] > 0].groupby("size")["flops"].mean()
    if target in mean.index:
        return float(mean[target])
    largest, smallest = mean.index.max(), mean.index.min()
    if largest == smallest:
        return float(mean[largest] * target / largest)
    slope = (mean[largest] - mean[smallest]) / (largest - smallest)
    return float(mean[largest] + slope * (target - largest))
