"""LENS101: the power phase, which the extrapolation continues, is hardly seen."""

from __future__ import annotations

import numpy as np

from lensllm.diagnostics.checks.check import Check, Context, Finding, findings

CODE = "LENS101"
TIP = "raise the budget, or trust hrb here before a law that is fitted to each curve alone"
# Three points show a line and whether it bends. Where fewer are past D*, the law's own errors in
# log loss are 1.5 (FLAN) and 1.6 (Gigaword) times those at the same budget where more are; of hrb
# 1.4 times and no larger. Tables of Lin et al. 2024, budgets 3,200 to 204,800.
NEEDED = 3


def find(context: Context) -> list[Finding]:
    """Candidates with fewer than 3 sizes measured at or after D* of their rectified law."""
    curves = context.curves
    seen = dict(zip(curves.candidates, np.isfinite(curves.mean_losses), strict=True))
    details = {}
    for fit in context.fits_of("rectified"):
        sizes, start = curves.sizes[seen[fit["candidate"]]], fit["transition_size"]
        past = int(np.sum(sizes >= start))
        if past < NEEDED:
            where = f"{start:,.0f}" if start <= context.target else "beyond the target"
            details[fit["candidate"]] = f"{past} of {len(sizes)}, D* {where}"
    claim = f"Fewer than {NEEDED} sizes lie in the power phase, at or after D*"
    return findings(CODE, claim, details, TIP)


CHECK = Check(CODE, "Too few sizes after the transition", TIP, find)
