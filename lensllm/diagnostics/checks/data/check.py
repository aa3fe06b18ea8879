"""What a check of the data is: a numbered question asked before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lensllm.data.readers import place
from lensllm.data.sources import excerpt
from lensllm.diagnostics.checks.check import findings

Mask = NDArray[np.bool_]
HELD_OUT = ("test", "validation")


@dataclass(frozen=True)
class Context:
    """The data as text, and as every candidate's tokenizer gives it."""

    examples: pd.DataFrame  # dataset/examples with role and rank of sample/roles
    summary: pd.DataFrame  # dataset/summary
    tokens: Mapping[str, pd.DataFrame]  # candidate → tokens/examples, row by row as examples
    readings: Mapping[str, Mapping[str, str]]  # candidate → the row of tokens/summary
    budget: int  # most examples trained on
    max_tokens: int

    @property
    def used(self) -> Mask:
        """Which examples a sweep can meet: held out, or within the budget."""
        spare = (self.examples["role"] == "train") & (self.examples["rank"] >= self.budget)
        return (self.examples["role"].ne("") & ~spare).to_numpy()

    @property
    def tested(self) -> Mask:
        return (self.examples["role"] == "test").to_numpy()

    def cut(self, column: str = "truncated") -> dict[str, Mask]:
        """By candidate, which examples are cut, or have their target cut."""
        return {name: rows[column].to_numpy(dtype=bool) for name, rows in self.tokens.items()}

    def show(self, mask: Mask) -> tuple[str, str]:
        """Place and excerpt of the first example of ``mask``, a test example if there is one."""
        chosen = mask & self.tested if (mask & self.tested).any() else mask
        row = self.examples.iloc[int(chosen.argmax())]
        return place(row["file"], int(row["number"])), excerpt(row["prompt"] or row["completion"])


@dataclass(frozen=True)
class Finding:
    """One sentence with its numbers and what to do, and an example to look at."""

    code: str
    candidate: str  # "" where it is not about one
    message: str
    place: str = ""  # "" where there is none
    excerpt: str = ""


@dataclass(frozen=True)
class Check:
    """``find`` returns nothing when the check is passed or does not apply."""

    code: str
    title: str
    tip: str  # what to do; ends every message
    find: Callable[[Context], list[Finding]]


def by_candidate(
    code: str, claim: str, details: Mapping[str, str], tip: str, shown: tuple[str, str] = ("", "")
) -> list[Finding]:
    """One finding for each candidate of ``details``, or one for all when they are many."""
    found = findings(code, claim, details, tip)
    return [Finding(code, one.candidate, one.message, *shown) for one in found]
