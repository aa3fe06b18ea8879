"""LENS203: one layer makes most of the curvature term."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lensllm.diagnostics.checks.check import Check, Context, Finding, findings
from lensllm.diagnostics.checks.sharpness import at_largest

CODE = "LENS203"
TIP = "look at this layer's learning rate and weights: the term says little about the others"
# More than all the others together, whatever their number. Of fewer than four layers that is no
# news: equal shares are a third each. In eight embedded candidates of four to seven layers the
# largest share was .32 to .48 at the largest size.
SHARE = 0.5
FEWEST_LAYERS = 4


def find(context: Context) -> list[Finding]:
    """Candidates one of whose layers has more than half of Σ √h at the largest size examined."""
    details = {}
    for name, rows in at_largest(context.layers).groupby("candidate", sort=False):
        shares = _shares(rows)
        largest = shares.max()
        if len(shares) >= FEWEST_LAYERS and largest > SHARE:
            details[str(name)] = f"{shares.idxmax()}, {100 * largest:.0f} % of {len(shares)} layers"
    return findings(CODE, "One layer makes more than half of the curvature term", details, TIP)


def _shares(rows: pd.DataFrame) -> pd.Series:
    """By layer, its share of Σ √h, the mean over the seeds; NaN where no layer moved."""
    roots = rows.assign(root=np.sqrt(rows["vhv_positive_max"].clip(lower=0)))
    table = roots.pivot(index="seed", columns="layer", values="root")
    shares: pd.Series = table.div(table.sum(axis=1), axis=0).mean()
    return shares


CHECK = Check(CODE, "One layer dominates the curvature", TIP, find)
