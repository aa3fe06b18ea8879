"""simulation: a sweep policy played on a table that has every cell.

Key: the table, the policy, the question, and the predictor that decides with its version, its
settings and what it reads. Tables: ``cells`` (schema curve/cells, those that the
sweep would have trained, and the target's), ``decisions``, ``cost``.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from lensllm.selection.policy import simulate
from lensllm.store.artifacts import Recipe, Ref, write_table
from tasks.base.goal import Goal, read_question
from tasks.base.stage import Step, Work
from tasks.stages import curve, decision

VERSION = 1


def step(goal: Goal, upstream: Mapping[str, Ref]) -> Step:
    """``upstream`` has curve, and past:… by label."""
    recipe = Recipe("simulation", VERSION, *decision.by_policy(goal, upstream))
    return Step(f"simulation of {goal.policy}", recipe, in_worker=False)


def build(work: Work) -> None:
    params = work.params
    curves = curve.read(work)
    question = read_question(params, curve.read_predictors(work))
    played = simulate(params["policy"], curves, question)
    cells = work.store.table(work.upstream["curve"], "cells")
    bought = np.isfinite(played.curves.mean_losses)
    rows, columns = np.nonzero(bought)
    names, sizes = np.array(played.curves.candidates)[rows], played.curves.sizes[columns]
    kept = set(zip(names.tolist(), sizes.astype(int).tolist(), strict=True))
    known = [key in kept for key in zip(cells["candidate"], cells["size"], strict=True)]
    truth = cells["size"] == params["target"]
    write_table(work.folder, "curve/cells", cells[np.array(known) | truth | (cells["size"] == 0)])
    write_table(work.folder, "sweep/decisions", played.decisions)
    full = params["target"] * len(curves.candidates)
    cost = pd.DataFrame([{"spent_examples": played.examples, "full_examples": full}])
    write_table(work.folder, "simulation/cost", cost)
