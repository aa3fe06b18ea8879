"""What the page of an ablation is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from lensllm.report import style
from lensllm.report.style import Look


@dataclass(frozen=True)
class AblationData:
    """The tables of one ablation, at least one of whose points has a ranking."""

    pipeline: str
    verdict: str
    points: pd.DataFrame  # ablation/points
    candidates: pd.DataFrame  # ablation/candidates
    keys: pd.DataFrame  # ablation/keys
    lacking: Sequence[tuple[int, str, str]]  # point, what it had to do without, reason
    config: Mapping[str, object]  # of the reference, resolved, without secrets

    @property
    def ranked(self) -> pd.Series[bool]:
        """Which points have a ranking."""
        return self.points["failed"] == ""

    @cached_property
    def candidate_names(self) -> list[str]:
        """Every candidate, in the order of the first point's ranking that has one."""
        return list(self.candidates["candidate"].unique())

    @cached_property
    def looks(self) -> dict[str, Look]:
        """How each is drawn: every point's choice and what was truly best there stand out."""
        choices = self.points["choice"][self.ranked].unique()
        measured = self.candidates.dropna(subset=["measured"])
        best = measured.sort_values("measured", kind="stable").drop_duplicates("point")
        return style.looks_of(
            self.candidate_names, [*choices, *best.sort_values("point")["candidate"]]
        )

    def of_candidate(self, name: str) -> pd.DataFrame:
        """The rows of one candidate, at most one per point."""
        return self._rows[name]

    @cached_property
    def _rows(self) -> dict[str, pd.DataFrame]:
        return {str(name): rows for name, rows in self.candidates.groupby("candidate")}
