"""sample: the rows to train on, to validate on and to test on, for one repeat.

Key: the data set, the held-out sizes, seed and repeat, but no subset size: a longer sweep keeps
every finished cell. Table: ``roles``.
"""

from lensllm.config.sections import Pipeline
from lensllm.data import sampling
from lensllm.store.artifacts import Ref
from tasks.base.plan import per_repeat
from tasks.base.stage import Stage
from tasks.base.step import BuildContext, Step


def step(config: Pipeline, repeat: int, dataset: Ref) -> Step:
    """The step of the sample of one repeat."""
    params = {
        "validation": config.data.validation_examples,
        "test": config.data.test_examples,
        "seed": config.seed,
        "repeat": repeat,
        "stratified": config.data.stratify is not None,
    }
    return STAGE.step(f"sample · repeat {repeat}", params, {"dataset": dataset})


def build(context: BuildContext) -> None:
    params = dict(context.params)
    columns = ["split", "stratum"] if params.pop("stratified") else ["split"]
    examples = context.table("dataset", "examples", columns)
    table = sampling.split_examples(examples["split"], examples.get("stratum"), **params)
    context.write("sample/roles", table)


STAGE = Stage(
    name="sample",
    version=1,
    tables=("sample/roles",),
    plan=per_repeat(lambda plan, repeat: step(plan.config, repeat, plan["dataset"][""].ref)),
    build=build,
    in_worker=False,
)
