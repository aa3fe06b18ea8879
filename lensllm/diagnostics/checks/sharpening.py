"""LENS202: the loss bends more after training on more data."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lensllm.diagnostics.checks.check import Check, Context, Finding, findings
from lensllm.diagnostics.checks.sharpness import traces

CODE = "LENS202"
TIP = "expect its curvature term to fall more slowly than 1/√D, and look at the learning rate"
ERRORS = 3.0
# Less is no news: the bound goes with the root of the Hessian, so a quarter is an eighth of it.
FACTOR = 1.25


def find(context: Context) -> list[Finding]:
    """Candidates whose trace rose significantly from the smallest to the largest size examined.

    The trace, and not vᵀH⁺v, because ‖v‖ grows with every step trained. Each seed is compared with
    itself, for its sizes share their first examples: other ones moved the trace by up to half, but
    its rise by no more than the probes' errors explain (four embedded candidates, two seeds).
    """
    details = {}
    for name, cells in traces(context.layers).groupby("candidate", sort=False):
        low, high = cells["size"].min(), cells["size"].max()
        ends = (cells[cells["size"] == size].set_index("seed") for size in (low, high))
        pairs = pd.concat(ends, axis=1, keys=["first", "last"], join="inner")
        if pairs.empty:  # no seed at both ends
            continue
        first, last = pairs["first", "trace"].mean(), pairs["last", "trace"].mean()
        error = _error(pairs)
        if last - first > ERRORS * error and last > FACTOR * first:
            details[str(name)] = (
                f"trace {first:,.4g} at {low:,} and {last:,.4g} at {high:,}, "
                f"a rise of {last - first:,.3g} ± {error:,.3g}"
            )
    return findings(CODE, "The loss is sharper after training on more data", details, TIP)


def _error(pairs: pd.DataFrame) -> float:
    """Standard error of the mean rise: what the probes leave, or the seeds show if that is more."""
    squares = pairs["first", "error"] ** 2 + pairs["last", "error"] ** 2
    rises = pairs["last", "trace"] - pairs["first", "trace"]
    probes, seeds = np.sqrt(squares.sum()) / len(pairs), rises.std() / np.sqrt(len(pairs))
    return float(np.fmax(probes, seeds))  # the seeds' is NaN where there is one


CHECK = Check(CODE, "Curvature rises with data", TIP, find)
