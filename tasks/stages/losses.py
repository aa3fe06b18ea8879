"""losses: a table of fine-tuning losses measured elsewhere, as the curves of a replay.

Key: the file's checksum. Tables: ``cells`` (schema curve/cells), ``notes``.
"""

from lensllm.curves import tables
from lensllm.store.artifacts import Recipe, write_table
from tasks.base.stage import Step, Work

VERSION = 1


def step(source: str) -> Step:
    """Raises ``DataError`` when ``source`` is not there."""
    recipe = Recipe("losses", VERSION, tables.fingerprint(source))
    return Step(f"losses {source}", recipe, {"source": source}, in_worker=False)


def build(work: Work) -> None:
    table = tables.read(work.hints["source"])
    write_table(work.folder, "curve/cells", table.cells)
    notes = [("metric", table.metric), ("citation", table.citation)]
    notes += [("note", text) for text in table.notes]
    write_table(work.folder, "losses/notes", [{"kind": k, "text": t} for k, t in notes if t])
