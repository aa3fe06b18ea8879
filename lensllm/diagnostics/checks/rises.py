"""LENS105: more data made a candidate worse."""

from __future__ import annotations

import numpy as np

from lensllm.diagnostics.checks.check import Check, Context, Finding, findings
from lensllm.diagnostics.checks.points import points

CODE = "LENS105"
TIP = "look at the learning rate and the epochs of these cells, for no law describes such a curve"
NOISES = 3.0  # at 2, one step in 44 of a flat curve would count as a rise; at 3, one in 740


def find(context: Context) -> list[Finding]:
    """The largest rise, relative to its noise, of every candidate that has one."""
    details = {}
    for p in points(context.curves):
        rise = np.diff(p.log_losses)
        noise = np.hypot(p.noise[1:], p.noise[:-1])
        excess = rise - NOISES * noise
        if len(rise) and excess.max() > 0:
            worst = int(excess.argmax())
            details[p.candidate] = (
                f"{100 * np.expm1(rise[worst]):+.1f} % from {p.sizes[worst]:,.0f} "
                f"to {p.sizes[worst + 1]:,.0f}, noise {100 * noise[worst]:.1f} %"
            )
    return findings(CODE, "The loss rises with more data", details, TIP)


CHECK = Check(CODE, "A curve rises", TIP, find)
