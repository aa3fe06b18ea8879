"""What a check is: a numbered question to one predictor's predictions and what they rest on."""

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


def no_layers() -> pd.DataFrame:
    """curvature/layers without a row, and the columns candidate, size and seed of their cell."""
    return empty("curvature/layers").assign(candidate="", size=0, seed=0)


@dataclass(frozen=True)
class Context:
    """A prediction and what it was made from."""

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


@dataclass(frozen=True)
class Finding:
    """One sentence with its numbers and what to do."""

    code: str
    candidate: str  # "" where it is not about one
    message: str


@dataclass(frozen=True)
class Check:
    """``find`` returns nothing when the check is passed or does not apply."""

    code: str
    title: str
    tip: str  # what to do; ends every message
    find: Callable[[Context], list[Finding]]


def findings(code: str, claim: str, details: Mapping[str, str], tip: str) -> list[Finding]:
    """One finding for each candidate of ``details``, or one for all when they are many."""
    named = {name: f"{name} ({detail})" for name, detail in details.items()}
    if len(named) > _MOST_SINGLE:
        named = {"": f"{len(named)} candidates, {', '.join(named.values())}"}
    return [Finding(code, name, f"{claim}: {who}; {tip}.") for name, who in named.items()]


@dataclass(frozen=True)
class Message:
    """A finding's text for people: ``folded`` is a list of candidates too long to show whole."""

    before: str
    folded: str  # "" where nothing is
    after: str


def split(text: str) -> Message:
    """The message of ``findings``, its list of candidates folded if it is long.

    It reads "claim: N candidates, A (detail), B (detail), …; what to do."
    """
    claim, colon, rest = text.partition(": ")
    who, semicolon, tip = rest.rpartition("; ")
    count, comma, names = who.partition(", ")
    listed = colon and semicolon and comma and count.endswith(" candidates")
    if len(text) <= _LONG or not listed:
        return Message(text, "", "")
    return Message(claim + colon + count, names, tip)
