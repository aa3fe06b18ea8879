"""LENS102: the target is further away than extrapolation was seen to tell candidates apart."""

from __future__ import annotations

import numpy as np

from lensllm.diagnostics.checks.check import Check, Context, Finding

CODE = "LENS102"
TIP = "raise the budget, or fine-tune the first few at a larger size before you choose"
# The candidates' own errors of hrb, as standard deviations of the log loss, reach the spread of
# the true losses (.075) beyond 5 doublings on FLAN: .065 at 5, .081 at 6. On Gigaword they do so
# (.104) beyond 8. Tables of Lin et al. 2024, 30 candidates.
MOST_DOUBLINGS = 5


def find(context: Context) -> list[Finding]:
    """Whether the target is more than 5 doublings beyond the largest size measured."""
    curves = context.curves
    measured = curves.sizes[np.isfinite(curves.mean_losses).any(0)]
    if len(measured) == 0:
        return []
    doublings = np.log2(context.target / measured[-1])
    if doublings <= MOST_DOUBLINGS:
        return []
    message = (
        f"The target D = {context.target:,.0f} is {doublings:.1f} doublings beyond "
        f"D = {measured[-1]:,.0f}, the largest size measured; {TIP}."
    )
    return [Finding(CODE, "", message)]


CHECK = Check(CODE, "The target is far away", TIP, find)
