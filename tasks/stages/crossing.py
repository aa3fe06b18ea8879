"""crossing: the bound's own transition across each curve, beside the law's.

Key: the curvature of all cells, laws, budget, target and seed. Tables: ``candidates``,
``agreement``.
"""

from lensllm.hessian.bound import agreement_table, crossing_table
from tasks.base.plan import RankingPlan, per_ranking
from tasks.base.stage import Stage
from tasks.base.step import BuildContext, Step
from tasks.stages import curvature


def step(plan: RankingPlan) -> Step | None:
    """The step of one ranking; None where no curvature was measured."""
    bounds, goal = plan.refs("curvature"), plan.goal
    if not bounds:
        return None
    params = {"budget": goal.budget, "target": goal.target, "seed": goal.seed}
    return STAGE.step("crossings", params, {**plan.refs("law"), **bounds})


def build(context: BuildContext) -> None:
    bounds = curvature.read(context, "bound")
    fits = context.table("law", "fits")
    rectified = fits[fits["law"] == "rectified"]
    transitions = dict(zip(rectified["candidate"], rectified["transition_size"], strict=True))
    candidates = crossing_table(
        bounds, transitions, context.params["budget"], context.params["seed"]
    )
    smallest = int(bounds["size"].min())
    context.write("crossing/candidates", candidates.to_dict("records"))
    found = agreement_table(candidates, smallest, context.params["target"])
    context.write("crossing/agreement", found.to_dict("records"))


STAGE = Stage(
    name="crossing",
    version=1,
    tables=("crossing/candidates", "crossing/agreement"),
    plan=per_ranking(step),
    build=build,
    in_worker=False,
    in_report=True,
)
