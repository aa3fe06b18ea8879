"""LENS204: one candidate's loss is much sharper, or flatter, than those of its own kind."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lensllm.diagnostics.checks.check import Check, Context, Finding, findings
from lensllm.diagnostics.checks.sharpness import CELL

CODE = "LENS204"
TIP = "look at how this candidate was made and trained before you trust its curve"
# The largest eigenvalue, because within a family it depends little on a model's size: over four
# gpt2 of .17 to .89 M weights and other pretraining text it spans a factor of 1.7 at D = 100 and
# 1.5 at 400, the mean over two seeds; the trace 4.7 and 3.8, the trace per weight 4.5 and 3.9. In
# single cells it was up to 2.3 times the median of the other three.
FACTOR = 3.0
DEVIATIONS = 3.0
_MAD = 1.4826  # standard deviation of a normal over its median absolute deviation
FEWEST_OTHERS = 2


def find(context: Context) -> list[Finding]:
    """Candidates whose largest eigenvalue differs from the median of their family's others, at the
    largest size examined, by more than a factor of 3 and 3 of the others' deviations."""
    sharpest = _log_eigenvalues(context.layers)
    families = dict(zip(context.curves.candidates, context.curves.families or (), strict=False))
    details = {}
    for name, value in sharpest.items():
        family = families.get(str(name), "")
        others = sharpest[[o != name and families.get(str(o)) == family for o in sharpest.index]]
        if family and len(others) >= FEWEST_OTHERS and _stands_out(value, others):
            details[str(name)] = (
                f"λ max {np.exp(value):,.4g} against {np.exp(others.median()):,.4g}, "
                f"median of {len(others)} other {family}"
            )
    return findings(CODE, "Sharpness is out of line with the family", details, TIP)


def _log_eigenvalues(layers: pd.DataFrame) -> pd.Series:
    """By candidate: mean over the seeds of ln of a layer's largest eigenvalue, at the last size."""
    largest = layers[layers["size"] == layers["size"].max()]
    cells = largest.groupby(CELL)["largest_eigenvalue"].max()
    logs: pd.Series = np.log(cells[cells > 0]).groupby("candidate", sort=False).mean()
    return logs


def _stands_out(value: float, others: pd.Series) -> bool:
    spread = _MAD * (others - others.median()).abs().median()
    return bool(abs(value - others.median()) > max(np.log(FACTOR), DEVIATIONS * spread))


CHECK = Check(CODE, "Sharpness out of line with its family", TIP, find)
