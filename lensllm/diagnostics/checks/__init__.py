"""Numbered checks on every prediction, one per file; docs/checks.md says what they mean.

To add one: write its ``find`` and ``CHECK`` in a file of its own, give it a line here and a section
in the document. A number is never used again.
"""

from __future__ import annotations

import pandas as pd

from lensllm.diagnostics.checks import (
    bound_transition,
    distance,
    exceeded,
    family,
    gaps,
    jumps,
    kernel_bound,
    one_layer,
    prior_range,
    resolution,
    rises,
    sharpening,
    tokenizers,
    transition,
    vacuous,
)
from lensllm.diagnostics.checks.check import Check, Context, Finding

CHECKS: dict[str, Check] = {
    check.code: check
    for check in (
        transition.CHECK,
        distance.CHECK,
        resolution.CHECK,
        jumps.CHECK,
        rises.CHECK,
        kernel_bound.CHECK,
        tokenizers.CHECK,
        prior_range.CHECK,
        gaps.CHECK,
        bound_transition.CHECK,
        sharpening.CHECK,
        one_layer.CHECK,
        family.CHECK,
        vacuous.CHECK,
        exceeded.CHECK,
    )
}

__all__ = ["CHECKS", "Check", "Context", "Finding", "examine"]


def examine(context: Context) -> pd.DataFrame:
    """What the checks find, in their order: columns code, title, candidate, message."""
    rows = [
        (check.code, check.title, found.candidate, found.message)
        for check in CHECKS.values()
        for found in check.find(context)
    ]
    return pd.DataFrame(rows, columns=["code", "title", "candidate", "message"], dtype=str)
