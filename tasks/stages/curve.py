"""curve: the cells of all candidates in one table, without what varies between machines.

Key: the cells, and each candidate's family and tokenizer. Table: ``cells``. A cell's key does not
contain its candidate's name, so names are given here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from lensllm.curves.curve import Array, Curves, curves_from_cells
from lensllm.predictors import Registry
from lensllm.store import schemas
from lensllm.store.artifacts import Ref
from tasks.base import past
from tasks.base.goal import read_registry
from tasks.base.model import Model
from tasks.base.plan import RankingPlan, per_ranking
from tasks.base.stage import Stage
from tasks.base.step import BuildContext, Cell, Step
from tasks.stages import heavy_tails, kernel


def step(cells: Mapping[Any, Ref], models: Sequence[Model]) -> Step:
    """The step of these ``cells``, whatever they are called elsewhere."""
    facts = {m.name: {"family": m.family, "tokenizer": str(m.tokenizer)} for m in models}
    return STAGE.step("curves", {"candidates": facts}, {str(c): ref for c, ref in cells.items()})


def planned(ranking: RankingPlan) -> Step | None:
    """The step of a sweep's finished cells; None in a replay, whose table is given."""
    if ranking.sweep is None:
        return None
    return step(ranking.given["finetune"], ranking.sweep.models)


def build(context: BuildContext) -> None:
    frames = []
    for label, ref in context.upstream.items():
        candidate = Cell.parse(label).candidate
        facts = context.params["candidates"][candidate]
        frames.append(context.store.table(ref, "cell").assign(candidate=candidate, **facts))
    cells = pd.concat(frames).sort_values(["candidate", "size", "repeat"], kind="stable")
    context.write("curve/cells", cells[schemas.schema("curve/cells").names])


def read(context: BuildContext) -> Curves:
    """The curves up to the budget of a stage that has them upstream.

    They come with the kernels and the weight metrics that the stage has upstream too.
    """
    cells = context.table("curve", "cells")
    kernels = context.each("kernel")
    spectra = {name: kernel.read_spectrum(context.store, ref) for name, ref in kernels.items()}
    curves = curves_from_cells(
        cells, context.params["metric"], context.params["budget"], spectra or None
    )
    tails = context.each("heavy_tails")
    measured = {name: heavy_tails.read(context.store, ref) for name, ref in tails.items()}
    return replace(curves, weight_metrics=_by_metric(measured, curves.candidates))


def read_truth(context: BuildContext, curves: Curves) -> Array | None:
    """(M,) mean loss measured at the target, NaN where it was not; None where nobody's was."""
    cells = context.table("curve", "cells")
    at_target = cells[cells["size"] == context.params["target"]]
    measured = at_target.groupby("candidate")[context.params["metric"]].mean()
    return measured.reindex(list(curves.candidates)).to_numpy() if len(measured) else None


def read_predictors(context: BuildContext) -> Registry:
    """The predictors with the settings and the prior of a stage that has the curves upstream."""
    earlier = context.each("past").values()
    cells = context.table("curve", "cells")
    prior = past.prior(context.store, earlier, context.params["metric"], cells)
    return read_registry(context.params, prior)


def _by_metric(
    found: Mapping[str, Mapping[str, float]], candidates: Sequence[str]
) -> dict[str, Array] | None:
    """(M,) values of each metric, NaN for a candidate that was not measured."""
    names = {metric for row in found.values() for metric in row}
    rows = [found.get(candidate, {}) for candidate in candidates]
    return {n: np.array([row.get(n, np.nan) for row in rows]) for n in sorted(names)} or None


STAGE = Stage(
    name="curve",
    version=4,
    tables=("curve/cells",),
    plan=per_ranking(planned),
    build=build,
    in_worker=False,
)
