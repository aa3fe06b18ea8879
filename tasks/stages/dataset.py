"""dataset: the examples, from installed packages' docstrings, files or the hub.

Key: package versions, or the files' checksums and how they are read. Tables: ``examples``,
``summary``.
"""

from lensllm.config.sections import Data
from lensllm.data import sources
from lensllm.store.artifacts import Recipe, Ref, Store, write_table
from tasks.base.stage import Step, Work

VERSION = 2


def step(data: Data) -> Step:
    recipe = Recipe("dataset", VERSION, sources.fingerprint(data))
    return Step("dataset", recipe, {"data": data.model_dump(mode="json")})


def build(work: Work) -> None:
    loaded = sources.load(Data.model_validate(work.hints["data"]))
    write_table(work.folder, "dataset/examples", loaded.examples)
    write_table(work.folder, "dataset/summary", loaded.summary)


def form(store: Store, dataset: Ref) -> str:
    """What an example is: completion, text or messages."""
    return str(store.table(dataset, "summary")["form"].iloc[0])


def unkept(store: Store, dataset: Ref) -> int:
    """Distinct examples of the training set that were counted and not kept."""
    sets = store.table(dataset, "summary")
    row = sets[~sets["split"].isin(["test", "validation"])].iloc[0]
    return int(row["distinct"] - row["kept"])


def remark(store: Store, ref: Ref) -> str:
    """What was read, where not all of it was kept."""
    rows = store.table(ref, "summary")
    kept, distinct = rows["kept"].sum(), rows["distinct"].sum()
    return f"a sample of {kept:,} of {distinct:,} distinct examples" if kept < distinct else ""
