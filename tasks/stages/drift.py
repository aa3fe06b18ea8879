"""drift: how far each subset's targets are from the full training set's.

Key: data set, sample and sizes. Table: ``sizes``.
"""

from collections.abc import Sequence

from lensllm.data import sampling
from lensllm.store.artifacts import Recipe, Ref, write_table
from tasks.base.stage import Step, Work
from tasks.stages import sample

VERSION = 1
# The full training set, or as many of a large one: its own shares are then known to a percent.
_REFERENCE = 100_000


def step(sizes: Sequence[int], dataset: Ref, sample: Ref) -> Step:
    recipe = Recipe(
        "drift", VERSION, {"sizes": list(sizes)}, {"dataset": dataset, "sample": sample}
    )
    return Step("drift of the subsets", recipe, in_worker=False)


def build(work: Work) -> None:
    train = sample.rows(work.store, work.upstream["sample"], "train")
    train = train[: max(_REFERENCE, *work.params["sizes"])]
    texts = work.store.table(work.upstream["dataset"], "examples", ["completion"])["completion"]
    targets = texts.iloc[train]
    write_table(work.folder, "drift/sizes", sampling.drift(targets.tolist(), work.params["sizes"]))
