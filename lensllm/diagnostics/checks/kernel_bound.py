"""LENS106: the offset of the LensLLM law would rather lie outside F's range."""

from __future__ import annotations

import numpy as np

from lensllm.diagnostics.checks.check import Check, Context, Finding, findings

CODE = "LENS106"
TIP = "compare with the rectified law, whose offset is free"


def find(context: Context) -> list[Finding]:
    """Candidates whose fitted t is 0, where F = F(0), or infinite, where F = F(∞)."""
    details = {}
    for fit in context.fits_of("lensllm"):
        if fit["t"] == 0:
            details[fit["candidate"]] = "t = 0, F = F(0)"
        elif np.isposinf(fit["t"]):
            details[fit["candidate"]] = "t = ∞, F = F(∞)"
    claim = "The LensLLM law is fitted with F at its bound, where the kernel's decay says nothing"
    return findings(CODE, claim, details, TIP)


CHECK = Check(CODE, "F at its bound", TIP, find)
