"""curve: the cells of all candidates in one table, without what varies between machines.

Key: the cells, and each candidate's family and tokenizer. Table: ``cells``. A cell's key does not
contain its candidate's name, so names are given here.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from lensllm.curves.curve import Array, Curves, curves_from_cells
from lensllm.predictors import Registry, reads
from lensllm.store import schemas
from lensllm.store.artifacts import Recipe, Ref, write_table
from tasks.base import past
from tasks.base.cell import Cell
from tasks.base.goal import read_registry
from tasks.base.models import Model
from tasks.base.roles import labelled
from tasks.base.stage import Step, Work
from tasks.stages import heavy_tails, kernel

VERSION = 2


def step(cells: Mapping[Cell, Ref], models: Sequence[Model]) -> Step:
    facts = {m.name: {"family": m.family, "tokenizer": str(m.tokenizer)} for m in models}
    upstream = {str(cell): ref for cell, ref in cells.items()}
    recipe = Recipe("curve", VERSION, {"candidates": facts}, upstream)
    return Step("curves", recipe, in_worker=False)


def build(work: Work) -> None:
    frames = []
    for label, ref in work.upstream.items():
        candidate = Cell.parse(label).candidate
        facts = work.params["candidates"][candidate]
        frames.append(work.store.table(ref, "cell").assign(candidate=candidate, **facts))
    cells = pd.concat(frames).sort_values(["candidate", "size", "seed"], kind="stable")
    write_table(work.folder, "curve/cells", cells[schemas.schema("curve/cells").names])


def read(work: Work) -> Curves:
    """The curves up to the budget of a stage that has them upstream.

    They come with the kernels and the weight metrics that the stage has upstream too.
    """
    cells = work.store.table(work.upstream["curve"], "cells")
    kernels = labelled(work.upstream, "kernel")
    spectra = {name: kernel.read_spectrum(work.store, ref) for name, ref in kernels.items()}
    curves = curves_from_cells(cells, work.params["metric"], work.params["budget"], spectra or None)
    tails = labelled(work.upstream, "heavy_tails")
    measured = {name: heavy_tails.read(work.store, ref) for name, ref in tails.items()}
    return replace(curves, weight_metrics=_by_metric(measured, curves.candidates))


def read_truth(work: Work, curves: Curves) -> Array | None:
    """(M,) mean loss measured at the target, NaN where it was not; None where nobody's was."""
    cells = work.store.table(work.upstream["curve"], "cells")
    at_target = cells[cells["size"] == work.params["target"]]
    measured = at_target.groupby("candidate")[work.params["metric"]].mean()
    return measured.reindex(list(curves.candidates)).to_numpy() if len(measured) else None


def read_predictors(work: Work) -> Registry:
    """The predictors with the settings and the prior of a stage that has the curves upstream."""
    earlier = labelled(work.upstream, "past").values()
    cells = work.store.table(work.upstream["curve"], "cells")
    prior = past.prior(work.store, earlier, work.params["metric"], cells)
    return read_registry(work.params, prior)


def predictor_inputs(
    upstream: Mapping[str, Ref], names: Iterable[str], kinds: Collection[str] = ()
) -> dict[str, Ref]:
    """The part of ``upstream`` that the predictors ``names`` read, and all roles of ``kinds``."""
    read = {"curve", *kinds, *(source for name in names for source in reads(name))}
    return {role: ref for role, ref in upstream.items() if role.partition(":")[0] in read}


def _by_metric(
    found: Mapping[str, Mapping[str, float]], candidates: Sequence[str]
) -> dict[str, Array] | None:
    """(M,) values of each metric, NaN for a candidate that was not measured."""
    names = {metric for row in found.values() for metric in row}
    rows = [found.get(candidate, {}) for candidate in candidates]
    return {n: np.array([row.get(n, np.nan) for row in rows]) for n in sorted(names)} or None
