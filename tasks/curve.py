"""curve: the cells of all candidates in one table, without what varies between machines.

Key: the cells. Table: ``cells``. A cell's key does not contain its candidate's name, so names are
given here.
"""

from collections.abc import Mapping

import pandas as pd

from lensllm import schemas
from lensllm.store import Recipe, Ref, write_table
from tasks.cell import Cell
from tasks.stage import Step, Work

VERSION = 1


def step(cells: Mapping[Cell, Ref]) -> Step:
    recipe = Recipe("curve", VERSION, upstream={str(cell): ref for cell, ref in cells.items()})
    return Step("curves", recipe, in_worker=False)


def build(work: Work) -> None:
    frames = [
        work.store.table(ref, "cell").assign(candidate=Cell.parse(label).candidate)
        for label, ref in work.upstream.items()
    ]
    cells = pd.concat(frames).sort_values(["candidate", "size", "seed"], kind="stable")
    write_table(work.folder, "curve/cells", cells[schemas.schema("curve/cells").names])
