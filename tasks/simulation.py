"""simulation: a sweep policy played on a table that has every cell.

Key: the table, the policy and the question. Tables: ``cells`` (schema curve/cells, those that the
sweep would have trained, and the target's), ``decisions``, ``cost``.
"""

import numpy as np
import pandas as pd

from lensllm.policy import Policy, simulate
from lensllm.store import Recipe, Ref, write_table
from tasks import curve, ranking
from tasks.goal import Goal
from tasks.stage import Step, Work

VERSION = 1


def step(goal: Goal, policy: Policy, curves: Ref) -> Step:
    params = {
        **goal.curve_params,
        **goal.question_params,
        "predictors": [goal.ranking.predictor],
        "policy": policy,
    }
    recipe = Recipe("simulation", VERSION, params, {"curve": curves})
    return Step(f"simulation of {policy}", recipe, in_worker=False)


def build(work: Work) -> None:
    params = work.params
    curves = curve.read(work)
    played = simulate(params["policy"], curves, ranking.read_question(work))
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
