"""law: scaling laws fitted to every candidate's curve up to the budget.

Key: curves, kernels, metric, budget and how the LensLLM laws read the kernel. Table: ``fits``.
"""

from contextlib import suppress

from lensllm.core.errors import DataError
from lensllm.laws import fits_frame, laws
from tasks.base.plan import RankingPlan, per_ranking
from tasks.base.stage import Stage
from tasks.base.step import BuildContext, Step
from tasks.stages import curve


def step(plan: RankingPlan) -> Step:
    """The step of the fits of one ranking."""
    params = {**plan.goal.curve_params, "scale": plan.goal.law.scale}
    return STAGE.step("laws", params, plan.refs("curve", "kernel"))


def build(context: BuildContext) -> None:
    curves = curve.read(context)
    fits = []
    for fit in laws(context.params["scale"]).values():
        with suppress(DataError):  # too few sizes or no kernels for this law: its rows are missing
            fits.append(fit(curves))
    context.write("law/fits", fits_frame(fits))


STAGE = Stage(
    name="law",
    version=2,
    tables=("law/fits",),
    plan=per_ranking(step),
    build=build,
    in_worker=False,
)
