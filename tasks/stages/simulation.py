"""simulation: a sweep policy played on a table that has every cell.

Key: the table, the policy, the question, and the predictor that decides with its version, its
settings and what it reads. Tables: ``cells`` (schema curve/cells, those that the
sweep would have trained, and the target's), ``decisions``, ``cost``.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from lensllm.selection.policy import simulate
from lensllm.store.artifacts import Ref
from tasks.base.goal import Goal, read_question
from tasks.base.stage import Planner, Stage
from tasks.base.step import BuildContext, Step
from tasks.stages import curve, decision


def step(goal: Goal, upstream: Mapping[str, Ref]) -> Step:
    """The play of the goal's policy; ``upstream`` has curve, and past:… by label."""
    return STAGE.step(f"simulation of {goal.policy}", *decision.by_policy(goal, upstream))


def build(context: BuildContext) -> None:
    params = context.params
    curves = curve.read(context)
    question = read_question(params, curve.read_predictors(context))
    played = simulate(params["policy"], curves, question)
    cells = context.table("curve", "cells")
    bought = np.isfinite(played.curves.mean_losses)
    rows, columns = np.nonzero(bought)
    names, sizes = np.array(played.curves.candidates)[rows], played.curves.sizes[columns]
    kept = set(zip(names.tolist(), sizes.astype(int).tolist(), strict=True))
    known = [key in kept for key in zip(cells["candidate"], cells["size"], strict=True)]
    truth = cells["size"] == params["target"]
    context.write("curve/cells", cells[np.array(known) | truth | (cells["size"] == 0)])
    context.write("sweep/decisions", played.decisions)
    full = params["target"] * len(curves.candidates)
    cost = pd.DataFrame([{"spent_examples": played.examples, "full_examples": full}])
    context.write("simulation/cost", cost)


STAGE = Stage(
    name="simulation",
    version=2,
    tables=("curve/cells", "sweep/decisions", "simulation/cost"),
    plan=Planner("replay"),
    build=build,
    in_worker=False,
    in_report=True,
)
