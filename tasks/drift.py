"""drift: how far each subset's targets are from the full training set's.

Key: data set, sample and sizes. Table: ``sizes``.
"""

from collections.abc import Sequence

from lensllm.data import sampling
from lensllm.store import Recipe, Ref, write_table
from tasks import sample
from tasks.stage import Step, Work

VERSION = 1


def step(sizes: Sequence[int], dataset: Ref, sample: Ref) -> Step:
    recipe = Recipe(
        "drift", VERSION, {"sizes": list(sizes)}, {"dataset": dataset, "sample": sample}
    )
    return Step("drift of the subsets", recipe, in_worker=False)


def build(work: Work) -> None:
    train = sample.rows(work.store, work.upstream["sample"], "train")
    targets = work.store.table(work.upstream["dataset"], "examples")["completion"].iloc[train]
    write_table(work.folder, "drift/sizes", sampling.drift(targets.tolist(), work.params["sizes"]))
