"""curve: the cells of all candidates in one table, without what varies between machines.

Key: the cells, and each candidate's family and tokenizer. Table: ``cells``. A cell's key does not
contain its candidate's name, so names are given here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from lensllm.curves.curve import Array, Curves, curves_from_cells
from lensllm.store import schemas
from lensllm.store.artifacts import Recipe, Ref, write_table
from tasks.base import past
from tasks.base.cell import Cell
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
    """The curves up to the budget of a stage that has them upstream, with what else it was given:
    kernels, weight metrics, and curves of the past to learn the prior from."""
    metric, budget = work.params["metric"], work.params["budget"]
    cells = work.store.table(work.upstream["curve"], "cells")
    kernels = labelled(work.upstream, "kernel")
    spectra = {name: kernel.read_spectrum(work.store, ref) for name, ref in kernels.items()}
    curves = curves_from_cells(cells, metric, budget, spectra or None)
    tails = labelled(work.upstream, "heavy_tails")
    return replace(
        curves,
        kernel_scale=work.params["scale"],
        gamma=work.params["gamma"],
        tau=work.params["tau"],
        weight_metrics=_by_metric(
            {name: heavy_tails.read(work.store, ref) for name, ref in tails.items()},
            curves.candidates,
        ),
        prior=past.prior(work.store, labelled(work.upstream, "past").values(), metric, cells),
    )


def _by_metric(
    found: Mapping[str, Mapping[str, float]], candidates: Sequence[str]
) -> dict[str, Array] | None:
    """(M,) of each metric, NaN for a candidate that was not measured."""
    names = {metric for row in found.values() for metric in row}
    rows = [found.get(candidate, {}) for candidate in candidates]
    return {n: np.array([row.get(n, np.nan) for row in rows]) for n in sorted(names)} or None
