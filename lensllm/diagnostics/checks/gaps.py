"""LENS110: a candidate was measured at fewer sizes than the others."""

from __future__ import annotations

import numpy as np

from lensllm.diagnostics.checks.check import Check, Context, Finding, findings

CODE = "LENS110"
TIP = "run its missing cells, or read its prediction as made from less"
_MOST_NAMED = 3


def find(context: Context) -> list[Finding]:
    """Candidates that lack a size which another candidate has, and not by a policy's decision."""
    curves = context.curves
    seen = np.isfinite(curves.mean_losses)
    wanted = seen.any(0)
    details = {}
    for name, row in zip(curves.candidates, seen, strict=True):
        missing = curves.sizes[wanted & ~row]
        if len(missing) and name not in context.dropped:
            named = ", ".join(f"{size:,.0f}" for size in missing[:_MOST_NAMED])
            more = " …" if len(missing) > _MOST_NAMED else ""
            details[name] = f"{row.sum()} of {wanted.sum()}, without {named}{more}"
    return findings(CODE, "Sizes are missing", details, TIP)


CHECK = Check(CODE, "Missing sizes", TIP, find)
