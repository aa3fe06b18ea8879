"""The type of every numbered check, of what it finds, and the evidence about a ranking.

A check is a function decorated with ``check``. It returns issues without their tip, an empty list
when the check is passed, and None when there is nothing that it applies to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pandas as pd

from lensllm.curves.curve import Curves, Metric
from lensllm.store.schemas import empty

_MOST_SINGLE = 3  # with more candidates one finding lists them all, so that reports stay readable
_LONG = 300  # characters of a message that is shown whole


@dataclass(frozen=True)
class Issue:
    """An issue that a check found, in words, without code and tip."""

    text: str
    candidate: str = ""  # "" where the issue is not about one
    place: str = ""  # of an example to look at, "" where there is none
    excerpt: str = ""  # of this example


@dataclass(frozen=True)
class Finding:
    """An issue with code, title and, in the message, the tip."""

    code: str
    title: str
    candidate: str
    message: str
    place: str
    excerpt: str


@dataclass(frozen=True)
class Check:
    """A numbered question to evidence, with the four texts that people read."""

    code: str
    title: str  # the issue in a few words
    tip: str  # what to do; ends every message
    passed: str
    not_applicable: str
    ask: Callable[[Any], list[Issue] | None]  # None: the check does not apply
    version: int = 1  # in the key of the stage that asks; raised when the check finds otherwise

    def find(self, evidence: object) -> list[Finding]:
        """The findings; none when the check is passed or does not apply."""
        return [
            Finding(
                code=self.code,
                title=self.title,
                candidate=issue.candidate,
                message=f"{issue.text}; {self.tip}.",
                place=issue.place,
                excerpt=issue.excerpt,
            )
            for issue in self.ask(evidence) or ()
        ]

    def outcome(self, evidence: object) -> str:
        """``issue``, ``passed`` or ``not applicable``."""
        issues = self.ask(evidence)
        return "not applicable" if issues is None else "issue" if issues else "passed"


def check(
    code: str, title: str, *, tip: str, passed: str, not_applicable: str, version: int = 1
) -> Callable[[Callable[[Any], list[Issue] | None]], Check]:
    """Decorator that makes the check ``code`` of the function that asks."""
    return partial(Check, code, title, tip, passed, not_applicable, version=version)


def by_candidate(
    claim: str, details: Mapping[str, str], example: tuple[str, str] = ("", "")
) -> list[Issue]:
    """One issue for each candidate, or one for all when there are many.

    Args:
        claim: what holds for these candidates.
        details: the numbers in words, by candidate.
        example: place and excerpt of an example to look at.
    """
    named = {name: f"{name} ({detail})" for name, detail in details.items()}
    if len(named) > _MOST_SINGLE:
        named = {"": f"{len(named)} candidates, {', '.join(named.values())}"}
    return [Issue(f"{claim}: {words}", name, *example) for name, words in named.items()]


@dataclass(frozen=True)
class Message:
    """A finding's text for people: ``folded`` is a list of candidates too long to show whole."""

    before: str
    folded: str  # "" where nothing is folded
    after: str


def fold(text: str) -> Message:
    """The message of a finding; a long list in "claim: N candidates, A, …; tip." is folded."""
    claim, colon, rest = text.partition(": ")
    candidates, semicolon, tip = rest.rpartition("; ")
    count, comma, names = candidates.partition(", ")
    listed = colon and semicolon and comma and count.endswith(" candidates")
    if len(text) <= _LONG or not listed:
        return Message(text, "", "")
    return Message(claim + colon + count, names, tip)


def no_layers() -> pd.DataFrame:
    """curvature/layers without a row, and the columns candidate, size and repeat of their cell."""
    return empty("curvature/layers").assign(candidate="", size=0, repeat=0)


@dataclass(frozen=True)
class RankingEvidence:
    """A ranking by one predictor, and what the ranking was made from."""

    curves: Curves  # up to the budget
    target: float
    metric: Metric
    predictions: pd.DataFrame  # one predictor's rows: candidate, predicted, low, high, p_best
    fits: pd.DataFrame  # law/fits; may be empty
    # candidate -> identity of its tokenizer; None, or empty, where unknown
    tokenizers: Mapping[str, str] | None
    dropped: frozenset[str] = frozenset()  # by a sweep's policy, which wants no more of their cells
    budget: float = math.inf  # largest D paid for
    bounds: pd.DataFrame = field(default_factory=partial(empty, "curvature/bound"))
    layers: pd.DataFrame = field(default_factory=no_layers)  # curvature/layers of the same cells
    crossings: pd.DataFrame = field(default_factory=partial(empty, "crossing/candidates"))

    def fits_of(self, law: str) -> list[dict[str, Any]]:
        """The rows of ``law`` whose curve falls: of the others only E has a meaning."""
        rows: list[Any] = self.fits.to_dict("records")
        return [row for row in rows if row["law"] == law and row["B"] > 0]
