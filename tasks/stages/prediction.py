"""prediction: one predictor's answers to all that a ranking asks, one artefact per predictor.

Key: curves, a policy's decisions, the inputs that this predictor reads (kernels, weight metrics,
curves of the past), its name, version and settings, target, budgets and seed. Tables: ``answers``,
``skipped``. A mixture has none: the ranking forms it from its parts.
"""

import numpy as np

from lensllm.predictors import reads
from lensllm.selection.answers import Answers, Question, answer
from lensllm.store.artifacts import Ref, Store
from tasks.base.plan import RankingPlan, per_predictor
from tasks.base.stage import Stage
from tasks.base.step import BuildContext, Step
from tasks.stages import curve, decision


def step(plan: RankingPlan, name: str) -> Step:
    """The step of the predictor ``name``."""
    goal = plan.goal
    params = {
        **goal.curve_params,
        **goal.target_params,
        "budgets": list(goal.budgets),
        "seed": goal.seed,
        "predictors": goal.predictor_params([name]),
    }
    upstream = {**plan.refs("curve", *reads(name)), **plan.decisions}
    return STAGE.step(f"prediction {name}", params, upstream)


def build(context: BuildContext) -> None:
    params = context.params
    (name,) = params["predictors"]
    curves, registry = curve.read(context), curve.read_predictors(context)
    target, budgets = params.get("effective_target", params["target"]), tuple(params["budgets"])
    question = Question(target, budgets, (name,), name, params["seed"], registry=registry)
    truth = curve.read_truth(context, curves)
    scored = truth is not None and bool(np.isfinite(truth).any())
    dropped = decision.dropped(context.store, context.upstream)
    for table, rows in vars(answer(name, curves, question, scored, dropped)).items():
        context.write(f"prediction/{table}", rows)


def read(store: Store, ref: Ref) -> Answers:
    """The answers of one predictor."""
    return Answers(store.table(ref, "answers"), store.table(ref, "skipped"))


STAGE = Stage(
    name="prediction",
    version=1,
    tables=("prediction/answers", "prediction/skipped"),
    plan=per_predictor(step),
    build=build,
    in_worker=False,
)
