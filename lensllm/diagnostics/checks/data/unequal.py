"""LENS305: the same cut leaves candidates with different text to be tested on."""

from __future__ import annotations

import numpy as np

from lensllm.diagnostics.checks.data.check import Check, Context, Finding

CODE = "LENS305"
TIP = "raise data.max_tokens until all see the same text"
# Candidates often differ by a few percent of their loss; the text they are measured on should
# differ by less.
DIFFERENCE = 0.01


def find(context: Context) -> list[Finding]:
    """Whether one candidate is tested on over 1 % more bytes than another."""
    tested = context.tested
    kept = {name: rows["target_bytes"].to_numpy()[tested] for name, rows in context.tokens.items()}
    whole = sum(len(text.encode()) for text in context.examples["completion"][tested])
    if not kept or not whole:
        return []
    shares = {name: sizes.sum() / whole for name, sizes in kept.items()}
    least, most = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
    if shares[most] - shares[least] <= DIFFERENCE:
        return []
    widest = np.flatnonzero(tested)[int(np.argmax(kept[most] - kept[least]))]
    message = (
        f"The candidates are tested on different text, from {shares[least]:.0%} of its bytes "
        f"({least}) to {shares[most]:.0%} ({most}), because their tokens are of different length; "
        f"{TIP}."
    )
    return [Finding(CODE, "", message, *context.show(np.arange(len(tested)) == widest))]


CHECK = Check(CODE, "Candidates are tested on different text", TIP, find)
