"""The Hessian of every examined cell in a few numbers, for checks that compare cells."""

from __future__ import annotations

import numpy as np
import pandas as pd

CELL = ["candidate", "size", "seed"]


def traces(layers: pd.DataFrame) -> pd.DataFrame:
    """Columns candidate, size, seed, trace over all layers and its error by the probes."""
    cells = layers.assign(variance=layers["trace_stderr"] ** 2).groupby(CELL, as_index=False)
    found = cells[["trace", "variance"]].sum()
    return found.assign(error=np.sqrt(found["variance"])).drop(columns="variance")


def at_largest(cells: pd.DataFrame) -> pd.DataFrame:
    """The rows of every candidate at the largest size that was examined of it."""
    return cells[cells["size"] == cells.groupby("candidate")["size"].transform("max")]
