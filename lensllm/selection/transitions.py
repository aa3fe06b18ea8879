"""The size at which curves pass from the pre-power to the power phase, as far as it was seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lensllm.curves.curve import Curves
from lensllm.predictors.ats import AtS


@dataclass(frozen=True)
class Transitions:
    """Start of the power phase by candidate.

    ``size`` is inf where it never does and NaN where nothing is known. At or below ``low`` it means
    no more than "there or before", at or above ``high`` "there or later". Equal ``source``s have
    not moved, even where that cannot be seen.
    """

    size: pd.Series[float]
    low: pd.Series[float]
    high: pd.Series[float]
    source: pd.Series[bytes]  # the curve, and whatever else decides

    @classmethod
    def of_law(cls, fits: pd.DataFrame, curves: Curves, target: float) -> Transitions:
        """D* of the rectified law in law/fits, between the smallest size and the target."""
        found = fits[fits["law"] == "rectified"].set_index("candidate")["transition_size"]
        names, smallest = list(curves.candidates), _ends(curves, 1)[0]
        end = pd.Series(float(target), names)
        return cls(found.reindex(names), smallest, end, _sources(curves))

    @classmethod
    def of_ats(cls, curves: Curves, ats: AtS) -> Transitions:
        """The smallest size that AtS accepts, between the smallest and the γ-th largest."""
        start = pd.Series(ats.accepted_from(curves), list(curves.candidates))
        return cls(start, *_ends(curves, ats.gamma), _sources(curves, ats.gamma, ats.tau))

    @property
    def clipped(self) -> pd.Series[float]:
        """The sizes, put on the nearest end where they lie beyond."""
        return self.size.clip(self.low, self.high)

    @property
    def side(self) -> pd.Series[str]:
        """seen | before | beyond | unknown."""
        words = np.select(
            [self.size.isna(), self.size <= self.low, self.size >= self.high],
            ["unknown", "before", "beyond"],
            "seen",
        )
        return pd.Series(words, self.size.index)

    def moves(self, other: Transitions) -> tuple[pd.Series[float], pd.Series[float]]:
        """Least and most of |log2| between both, of the candidates known to both.

        Sizes are compared within the range that both could see. Where one of them lies on its end,
        the least is what is left of the move and the most is inf.
        """
        names = self.size.dropna().index.intersection(other.size.dropna().index)
        low = np.maximum(self.low[names], other.low[names])
        high = np.maximum(low, np.minimum(self.high[names], other.high[names]))
        mine, theirs = (each.size[names].clip(low, high) for each in (self, other))
        inside = (mine > low) & (mine < high) & (theirs > low) & (theirs < high)
        same = self.source[names] == other.source[names]
        least = pd.Series(np.abs(np.log2(mine / theirs)), names).mask(same, 0.0)
        return least, least.where(inside | same, np.inf)


def _sources(curves: Curves, *settings: float) -> pd.Series[bytes]:
    """By candidate, what is equal where sizes, mean losses and ``settings`` are."""
    about = np.array(settings, dtype=float).tobytes() + curves.sizes.tobytes()
    return pd.Series(
        [about + losses.tobytes() for losses in curves.mean_losses], list(curves.candidates)
    )


def _ends(curves: Curves, gamma: int) -> tuple[pd.Series[float], pd.Series[float]]:
    """By candidate, the smallest finished size and the γ-th largest; NaN where there is none."""
    seen = np.isfinite(curves.mean_losses)
    sizes = [curves.sizes[row] for row in seen]
    names = list(curves.candidates)
    smallest = [s[0] if len(s) else np.nan for s in sizes]
    nth = [s[-gamma] if len(s) >= gamma else np.nan for s in sizes]
    return pd.Series(smallest, names), pd.Series(nth, names)
