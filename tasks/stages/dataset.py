"""dataset: the examples, from installed packages' docstrings, files or the hub.

Key: package versions, or the files' checksums and how they are read. Tables: ``examples``,
``summary``.
"""

from lensllm.config.sections import Data
from lensllm.data import sources
from lensllm.store.artifacts import Ref, Store
from tasks.base.plan import once
from tasks.base.stage import Stage
from tasks.base.step import BuildContext, Step


def step(data: Data) -> Step:
    """The step of the data set."""
    fingerprint = sources.fingerprint(data)
    return STAGE.step("dataset", fingerprint, hints={"data": data.model_dump(mode="json")})


def build(context: BuildContext) -> None:
    loaded = sources.load(Data.model_validate(context.hints["data"]))
    context.write("dataset/examples", loaded.examples)
    context.write("dataset/summary", loaded.summary)


def form(store: Store, dataset: Ref) -> str:
    """The form of an example: completion, text or messages."""
    return str(store.table(dataset, "summary")["form"].iloc[0])


def unkept(store: Store, dataset: Ref) -> int:
    """Distinct examples of the training set that were counted and not kept."""
    sets = store.table(dataset, "summary")
    row = sets[~sets["split"].isin(["test", "validation"])].iloc[0]
    return int(row["distinct"] - row["kept"])


def note(store: Store, ref: Ref) -> str:
    """Numbers of examples kept and read, if they differ."""
    rows = store.table(ref, "summary")
    kept, distinct = rows["kept"].sum(), rows["distinct"].sum()
    return f"a sample of {kept:,} of {distinct:,} distinct examples" if kept < distinct else ""


STAGE = Stage(
    name="dataset",
    version=2,
    tables=("dataset/examples", "dataset/summary"),
    plan=once(lambda plan: step(plan.config.data)),
    build=build,
    note=note,
)
