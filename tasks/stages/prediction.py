"""prediction: one predictor's answers to all that a ranking asks, one artefact per predictor.

Key: curves, a policy's decisions, the inputs that this predictor reads (kernels, weight metrics,
curves of the past), its name, version and settings, target, budgets and seed. Tables: ``answers``,
``skipped``. A mixture has none: the ranking forms it from its parts.
"""

from collections.abc import Mapping

import numpy as np

from lensllm.predictors import PREDICTORS, parts
from lensllm.selection.answers import Answers, Question, answer
from lensllm.store.artifacts import Recipe, Ref, Store, write_table
from tasks.base.goal import Goal
from tasks.base.stage import Step, Work
from tasks.stages import curve, decision

VERSION = 1


def steps(goal: Goal, upstream: Mapping[str, Ref]) -> dict[str, Step]:
    """The step of every predictor that is no mixture.

    ``upstream`` has curve and, by label, kernel:…, heavy_tails:…, past:… and decision:…; or
    simulation in place of the last.
    """
    return {name: _step(goal, name, upstream) for name in PREDICTORS if parts(name) == (name,)}


def _step(goal: Goal, name: str, upstream: Mapping[str, Ref]) -> Step:
    params = {
        **goal.curve_params,
        "target": goal.target,
        "budgets": list(goal.budgets),
        "seed": goal.seed,
        "predictors": goal.predictor_params([name]),
    }
    inputs = curve.predictor_inputs(upstream, [name], ("decision", "simulation"))
    recipe = Recipe("prediction", VERSION, params, inputs)
    return Step(f"prediction {name}", recipe, in_worker=False)


def build(work: Work) -> None:
    params = work.params
    (name,) = params["predictors"]
    curves, registry = curve.read(work), curve.read_predictors(work)
    target, budgets = params["target"], tuple(params["budgets"])
    question = Question(target, budgets, (name,), name, params["seed"], registry=registry)
    truth = curve.read_truth(work, curves)
    scored = truth is not None and bool(np.isfinite(truth).any())
    dropped = decision.dropped(work.store, work.upstream)
    for table, rows in vars(answer(name, curves, question, scored, dropped)).items():
        write_table(work.folder, f"prediction/{table}", rows)


def read(store: Store, ref: Ref) -> Answers:
    """The answers of one predictor."""
    return Answers(store.table(ref, "answers"), store.table(ref, "skipped"))
