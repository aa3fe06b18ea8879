"""LENS201: by the Hessian bound, the curve is still in its pre-power phase at the budget.

Only the reading with a constant fitted to the measured gaps is asked. The literal one compares the
curvature term with n^(−3/4) nats: the theorem leaves that constant open, and in bits the crossing
would be elsewhere. On six embedded candidates the term is 13 to 31 times n^(−3/4) at 100 examples
and 48 to 93 times at 800, so that the literal n* is about one example.
"""

from __future__ import annotations

import math
from typing import Any

from lensllm.diagnostics.checks.check import Check, Context, Finding, findings

CODE = "LENS201"
TIP = "raise the budget, and go by the law's D* where the two disagree: the bound ranks nobody"
READING = "fitted"


def find(context: Context) -> list[Finding]:
    """Candidates whose n* lies beyond the budget with all of its 80 % interval.

    One with two examined cells has no interval: two points have a crossing, whatever they are.
    """
    rows = context.crossings
    beyond = rows[(rows["remainder"] == READING) & (rows["low"] > context.budget)]
    details = {row["candidate"]: _describe(row, context) for row in beyond.to_dict("records")}
    claim = "By the bound these are still in the pre-power phase, n* beyond the budget"
    return findings(CODE, claim, details, TIP)


def _describe(row: dict[Any, Any], context: Context) -> str:
    """n*, what it is at least, and whether the law says the same."""
    found = f"n* {_place(row['crossing_size'], context)}, at least {_place(row['low'], context)}"
    start = row["transition_size"]
    if math.isnan(start):
        return f"{found}, no D*"
    verdict = "agrees" if start > context.budget else "disagrees"
    return f"{found}, D* {_place(start, context)} {verdict}"


def _place(size: float, context: Context) -> str:
    return f"{size:,.0f}" if size <= context.target else "beyond the target"


CHECK = Check(CODE, "Still in the pre-power phase by the bound", TIP, find)
