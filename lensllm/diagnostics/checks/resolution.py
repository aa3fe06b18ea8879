"""LENS103: the intervals are wider than all that is between the candidates."""

from __future__ import annotations

import numpy as np

from lensllm.diagnostics.checks.check import Check, Context, Finding

CODE = "LENS103"
TIP = "raise the budget or add seeds, and go by P(best), not by the order alone"


def find(context: Context) -> list[Finding]:
    """Whether the median interval is wider than the range of the predictions, in log loss."""
    rows = context.predictions[["predicted", "low", "high"]].to_numpy(dtype=float)
    predicted, low, high = np.log(rows[np.isfinite(rows).all(1)]).T
    if len(predicted) < 2:
        return []
    width, extent = np.median(high - low), np.ptp(predicted)
    if width <= extent:
        return []
    message = (
        f"The predictions lie within {_percent(extent)} of each other and the median 80 % "
        f"interval spans {_percent(width)}, so the ranking is not resolved; {TIP}."
    )
    return [Finding(CODE, "", message)]


def _percent(log_ratio: float) -> str:
    return f"{100 * np.expm1(log_ratio):.1f} %"


CHECK = Check(CODE, "The ranking is not resolved", TIP, find)
