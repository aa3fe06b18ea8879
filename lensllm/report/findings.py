"""What the checks found, one entry per check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lensllm.diagnostics.checks.check import Message, fold
from lensllm.report.data import ReportData
from lensllm.report.tables import records


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    code: str
    title: str
    messages: Sequence[Message]


def findings(data: ReportData) -> list[Finding]:
    """One per check that found anything, in the order of the table."""
    found: dict[tuple[str, str], list[Message]] = {}
    for row in records(data.findings):
        found.setdefault((row["code"], row["title"]), []).append(fold(row["message"]))
    return [Finding(code, title, messages) for (code, title), messages in found.items()]
