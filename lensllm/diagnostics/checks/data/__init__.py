"""Numbered checks of the data before training, one per file; docs/checks.md says what they mean.

To add one: as in ``lensllm.diagnostics.checks``.
"""

from __future__ import annotations

import pandas as pd

from lensllm.diagnostics.checks.data import (
    duplicates,
    no_template,
    padding,
    targets_cut,
    too_long,
    unequal,
    unfit,
)
from lensllm.diagnostics.checks.data.check import Check, Context, Finding

CHECKS: dict[str, Check] = {
    check.code: check
    for check in (
        targets_cut.CHECK,
        unfit.CHECK,
        duplicates.CHECK,
        too_long.CHECK,
        unequal.CHECK,
        padding.CHECK,
        no_template.CHECK,
    )
}
_COLUMNS = ["code", "title", "candidate", "message", "place", "excerpt"]

__all__ = ["CHECKS", "Check", "Context", "Finding", "examine", "sentences"]


def examine(context: Context) -> pd.DataFrame:
    """What the checks find, in their order: the table ``inspection/findings``."""
    rows = [
        (check.code, check.title, found.candidate, found.message, found.place, found.excerpt)
        for check in CHECKS.values()
        for found in check.find(context)
    ]
    return pd.DataFrame(rows, columns=_COLUMNS, dtype=str)


def sentences(findings: pd.DataFrame) -> pd.DataFrame:
    """The findings as rows of ``checks/findings``, the example at the end of the message."""
    said = [
        f"{row['message']}{_example(row['place'], row['excerpt'])}"
        for row in findings.to_dict("records")
    ]
    return findings.assign(message=said)[["code", "title", "candidate", "message"]]


def _example(place: str, excerpt: str) -> str:
    if not place:
        return ""
    return f" For example {place}: “{excerpt}”." if excerpt else f" For example {place}."
