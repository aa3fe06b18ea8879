"""sample: who is trained on, validated on and tested on, for one repeat.

Key: the data set, the held-out sizes, seed and repeat, but no subset size: a longer sweep keeps
every finished cell. Table: ``roles``.
"""

from lensllm.config.sections import Pipeline
from lensllm.data import sampling
from lensllm.store.artifacts import Recipe, Ref, Store, write_table
from tasks.base.stage import Step, Work

VERSION = 1


def step(config: Pipeline, repeat: int, dataset: Ref) -> Step:
    params = {
        "validation": config.data.validation_examples,
        "test": config.data.test_examples,
        "seed": config.seed,
        "repeat": repeat,
        "stratified": config.data.stratify is not None,
    }
    recipe = Recipe("sample", VERSION, params, {"dataset": dataset})
    return Step(f"sample · seed {repeat}", recipe, in_worker=False)


def build(work: Work) -> None:
    params = dict(work.params)
    columns = ["split", "stratum"] if params.pop("stratified") else ["split"]
    examples = work.store.table(work.upstream["dataset"], "examples", columns)
    table = sampling.roles(examples["split"], examples.get("stratum"), **params)
    write_table(work.folder, "sample/roles", table)


def rows(store: Store, sample: Ref, role: str) -> list[int]:
    """Indices into the data set of one role, in subset order."""
    table = store.table(sample, "roles")
    chosen = table[table["role"] == role].sort_values("rank")
    return [int(row) for row in chosen["row"]]
