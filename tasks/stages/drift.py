"""drift: how far each subset's targets are from the full training set's.

Key: data set, sample and sizes. Table: ``sizes``.
"""

from lensllm.data import sampling
from tasks.base.plan import Plan, once
from tasks.base.stage import Stage
from tasks.base.step import BuildContext, Step
from tasks.base.training import split_rows

# The full training set, or as many of a large one: its own shares are then known to a percent.
_REFERENCE = 100_000


def step(plan: Plan) -> Step:
    """The step of the first sample's subsets."""
    upstream = {"dataset": plan["dataset"][""].ref, "sample": plan["sample"][0].ref}
    return STAGE.step("drift of the subsets", {"sizes": list(plan.config.sweep.sizes)}, upstream)


def build(context: BuildContext) -> None:
    train = split_rows(context.store, context.upstream["sample"], "train")
    train = train[: max(_REFERENCE, *context.params["sizes"])]
    texts = context.table("dataset", "examples", ["completion"])["completion"]
    targets = texts.iloc[train]
    context.write("drift/sizes", sampling.drift(targets.tolist(), context.params["sizes"]))


STAGE = Stage(
    name="drift",
    version=1,
    tables=("drift/sizes",),
    plan=once(step),
    build=build,
    in_worker=False,
    in_report=True,
)
