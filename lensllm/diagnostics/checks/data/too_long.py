"""LENS304: examples that no candidate sees whole."""

from __future__ import annotations

import numpy as np

from lensllm.diagnostics.checks.data.check import Check, Context, Finding

CODE = "LENS304"
TIP = "raise data.max_tokens if the answer needs what is cut off"


def find(context: Context) -> list[Finding]:
    """Examples of the sweep that are cut for every candidate."""
    if not context.tokens:
        return []
    cut = np.logical_and.reduce(list(context.cut().values())) & context.used
    if not cut.any():
        return []
    message = (
        f"{cut.sum():,} of {context.used.sum():,} examples are longer than {context.max_tokens} "
        "tokens, or have a longer target than half of that, for every candidate: the beginning of "
        f"a prompt is cut off, and the end of a target; {TIP}."
    )
    return [Finding(CODE, "", message, *context.show(cut))]


CHECK = Check(CODE, "Examples that no candidate sees whole", TIP, find)
