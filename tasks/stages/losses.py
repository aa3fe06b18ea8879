"""losses: a table of fine-tuning losses measured elsewhere, as the curves of a replay.

Key: the file's checksum. Tables: ``cells`` (schema curve/cells), ``notes``.
"""

from lensllm.curves import tables
from tasks.base.stage import Planner, Stage
from tasks.base.step import BuildContext, Step


def step(source: str) -> Step:
    """The step of the table ``source``. Raises ``DataError`` when it is not there."""
    return STAGE.step(f"losses {source}", tables.fingerprint(source), hints={"source": source})


def build(context: BuildContext) -> None:
    table = tables.read(context.hints["source"])
    context.write("curve/cells", table.cells)
    notes = [("metric", table.metric), ("citation", table.citation)]
    notes += [("note", text) for text in table.notes]
    context.write("losses/notes", [{"kind": k, "text": t} for k, t in notes if t])


STAGE = Stage(
    name="losses",
    version=3,
    tables=("curve/cells", "losses/notes"),
    plan=Planner("replay"),
    build=build,
    in_worker=False,
    in_report=True,
)
