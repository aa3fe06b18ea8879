"""The Hessian generalisation bound, and the transition that it implies along a curve.

Zeng et al. 2025, Theorem 1, after Ju, Li and Zhang 2022: with probability 0.99

    L(ŵ) ≤ (1 + ε) L̂(ŵ) + (1 + ε)/√n · Σ_layers √(C h_i) + O(n^(−3/4)),

v_i = ŵ_i − w_i the distance moved from the pretrained weights, h_i the largest v_iᵀ H_i⁺ v_i over
the training examples examined, C the largest loss measured. A diagnostic, never a ranking.

Corollary: L(ŵ) ≤ (1 + ε) L̂ + C₃ n^(−β₃) + O(n^(−3/4)). While the remainder is the larger of the
two terms, a curve is in its pre-power phase. The remainder's constant is open and read two ways:

- *literal*: n^(−3/4), in nats;
- *fitted*: C₃ n^(−β₃) and n^(−3/4), with factors ≥ 0 that together describe the measured gap
  between test and training loss best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import nnls

from lensllm.core import seeds


@dataclass(frozen=True)
class Bound:
    """The terms of Theorem 1 without its remainder, losses in nats per token."""

    train_term: float  # (1 + ε) L̂
    curvature_term: float  # (1 + ε)/√n Σ √(C h_i)

    @property
    def bound(self) -> float:
        return self.train_term + self.curvature_term


def bound_terms(
    train: float, largest_loss: float, h: Sequence[float], subset_size: int, epsilon: float
) -> Bound:
    """Theorem 1 without its remainder; L̂ is ``train``, C ``largest_loss``, n ``subset_size``."""
    total = sum(math.sqrt(largest_loss * value) for value in h)
    return Bound((1 + epsilon) * train, (1 + epsilon) / math.sqrt(subset_size) * total)


Array = NDArray[np.float64]

REMAINDERS = ("literal", "fitted")
_EXPONENT = 0.75  # exponent of the remainder
_DRAWS = 1000
_INTERVAL = (0.1, 0.9)


@dataclass(frozen=True)
class PowerLaw:
    """C₃ n^(−β₃), fitted in log-log."""

    log_c3: float
    beta3: float
    covariance: Array  # (2, 2) of (ln C₃, β₃)
    freedom: int  # degrees of freedom, points − 2; with 0 the covariance is NaN

    def values(self, sizes: Array) -> Array:
        """C₃ n^(−β₃) at ``sizes`` (P,), shape (P,)."""
        values: Array = np.exp(self.log_c3 - self.beta3 * np.log(sizes))
        return values

    @property
    def errors(self) -> Array:
        """Standard errors of ln C₃ and β₃."""
        deviations: Array = np.sqrt(np.diag(self.covariance))
        return deviations

    def draw(self, count: int, generator: np.random.Generator) -> list[PowerLaw]:
        """``count`` laws drawn from the Student's t distribution around this one."""
        stretch = np.sqrt(self.freedom / generator.chisquare(self.freedom, count))
        steps = generator.multivariate_normal(np.zeros(2), self.covariance, count)
        places = (self.log_c3, self.beta3) + stretch[:, None] * steps
        return [PowerLaw(c, b, self.covariance, self.freedom) for c, b in places.tolist()]


@dataclass(frozen=True)
class Crossing:
    """n* of one candidate under one reading of the remainder."""

    remainder: str  # literal | fitted
    size: float  # 0 if the curvature term is the larger at every size, inf if it never is
    low: float  # 80 % interval; NaN if there are only two points
    high: float


def power_law(sizes: Array, terms: Array) -> PowerLaw:
    """Least squares of ln ``terms`` on ln ``sizes``, both (P,).

    Raises ValueError with fewer than two different sizes or a term that is not positive.
    """
    if len(set(sizes)) < 2 or np.any(terms <= 0):
        raise ValueError("a power law needs positive terms at two sizes or more")
    design = np.column_stack([np.ones(len(sizes)), -np.log(sizes)])
    y = np.log(terms)
    found, *_ = np.linalg.lstsq(design, y, rcond=None)
    freedom = len(y) - 2
    rest = y - design @ found
    variance = float(rest @ rest) / freedom if freedom else math.nan
    covariance = variance * np.linalg.inv(design.T @ design)
    return PowerLaw(float(found[0]), float(found[1]), covariance, freedom)


def crossing_size(law: PowerLaw, log_constant: float = 0.0) -> float:
    """n* at which C₃ n^(−β₃) overtakes c n^(−3/4), with c = exp(``log_constant``).

    inf if it never does; NaN if ``log_constant`` is NaN.
    """
    gain = _EXPONENT - law.beta3
    if gain <= 0:  # the term falls faster than the remainder
        return math.inf
    with np.errstate(over="ignore"):
        return float(np.exp((log_constant - law.log_c3) / gain))


def crossings(
    sizes: Array, terms: Array, gaps: Array, generator: np.random.Generator
) -> list[Crossing]:
    """n* of one candidate under both readings, from its P cells.

    ``terms`` are curvature terms and ``gaps`` test − training loss, in nats per token; all (P,).
    Raises ValueError if ``power_law`` cannot be fitted.
    """
    law = power_law(sizes, terms)
    constant, error = _log_constant(law, sizes, gaps)
    found = {"literal": crossing_size(law), "fitted": crossing_size(law, constant)}
    if not law.freedom:
        return [Crossing(name, size, math.nan, math.nan) for name, size in found.items()]
    draws: dict[str, list[float]] = {name: [] for name in found}
    for drawn in law.draw(_DRAWS, generator):
        noisy = gaps + error * generator.standard_t(law.freedom, len(gaps))
        draws["literal"].append(crossing_size(drawn))
        draws["fitted"].append(crossing_size(drawn, _log_constant(drawn, sizes, noisy)[0]))
    return [Crossing(name, size, *_interval(draws[name])) for name, size in found.items()]


def _log_constant(law: PowerLaw, sizes: Array, gaps: Array) -> tuple[float, float]:
    """ln(c / a) of the best fit a C₃ n^(−β₃) + c n^(−3/4), a, c ≥ 0, and its residual error."""
    design = np.column_stack([law.values(sizes), sizes**-_EXPONENT])
    (a, c), norm = nnls(design, gaps)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = float(np.log(c) - np.log(a))  # ±inf where one of them is 0; NaN where both are
    return ratio, norm / math.sqrt(max(len(gaps) - 2, 1))


def _interval(draws: list[float]) -> tuple[float, float]:
    """80 % interval of the draws that are not NaN; no interpolation, as some may be infinite."""
    if all(map(math.isnan, draws)):
        return math.nan, math.nan
    low, high = np.nanquantile(draws, _INTERVAL, method="nearest")
    return float(low), float(high)


def crossing_table(
    bounds: pd.DataFrame, transitions: Mapping[str, float], budget: int, seed: int
) -> pd.DataFrame:
    """Table crossing/candidates from rows of curvature/bound: two rows per candidate.

    ``transitions`` are D* of the rectified law where known. A candidate with fewer than two sizes,
    or a curvature term of 0, is left out.
    """
    rows = []
    for name, cells in bounds.groupby("candidate", sort=False):
        sizes, terms, gaps = (
            cells[column].to_numpy(float) for column in ("size", "curvature_term", "gap")
        )
        if len(set(sizes)) < 2 or np.any(terms <= 0):
            continue
        law, start = power_law(sizes, terms), transitions.get(str(name), math.nan)
        for found in crossings(sizes, terms, gaps, seeds.generator(seed, "crossing", str(name))):
            known = not (math.isnan(found.size) or math.isnan(start))
            rows.append(
                {
                    "candidate": name,
                    "remainder": found.remainder,
                    "C3": math.exp(law.log_c3),
                    "beta3": law.beta3,
                    "log_C3_stderr": law.errors[0],
                    "beta3_stderr": law.errors[1],
                    "cells": len(cells),
                    "crossing_size": found.size,
                    "low": found.low,
                    "high": found.high,
                    "transition_size": start,
                    "agrees": (found.size <= budget) == (start <= budget) if known else None,
                }
            )
    return pd.DataFrame(rows)


def agreement_table(candidates: pd.DataFrame, smallest: int, target: int) -> pd.DataFrame:
    """Table crossing/agreement: one row per reading of the remainder, over all known candidates.

    Sizes are clipped to the range of the data, [``smallest``, ``target``].
    """
    if candidates.empty:
        return pd.DataFrame()
    rows = []
    for remainder in REMAINDERS:
        known = candidates[(candidates["remainder"] == remainder) & candidates["agrees"].notna()]
        if known.empty:
            continue
        ends = [known[c].clip(smallest, target) for c in ("crossing_size", "transition_size")]
        inside = known["transition_size"].between(known["low"], known["high"])
        judged = inside[known["low"].notna()]
        rows.append(
            {
                "remainder": remainder,
                "candidates": len(known),
                "same_phase": float(known["agrees"].astype(float).mean()),
                "doublings": float(np.median(np.abs(np.log2(ends[0] / ends[1])))),
                "within_interval": float(judged.mean()) if len(judged) else math.nan,
            }
        )
    return pd.DataFrame(rows)
