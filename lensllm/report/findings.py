"""What the checks found, cut so that a sentence with thirty names can still be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lensllm.report.data import ReportData
from lensllm.report.tables import records

_LONG = 300  # characters of a message that is shown whole


@dataclass(frozen=True)
class Message:
    """One finding: ``before``, ``folded`` and ``after`` make up its text."""

    before: str
    folded: str
    after: str


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
        found.setdefault((row["code"], row["title"]), []).append(_message(row["message"]))
    return [Finding(code, title, messages) for (code, title), messages in found.items()]


def _message(text: str) -> Message:
    """``text``, its list of candidates folded if it is long.

    A message reads "claim: N candidates, A (detail), B (detail), …; what to do."
    """
    claim, colon, rest = text.partition(": ")
    who, semicolon, tip = rest.rpartition("; ")
    count, comma, names = who.partition(", ")
    if len(text) <= _LONG or not (colon and semicolon and comma):
        return Message(text, "", "")
    return Message(claim + colon + count, names, tip)
