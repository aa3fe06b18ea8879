"""The bound's transition of every candidate, and how far it agrees with the law's own."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from lensllm.core import seeds
from lensllm.hessian.crossing import REMAINDERS, crossings, power_law


def across(
    bounds: pd.DataFrame, transitions: Mapping[str, float], budget: int, seed: int
) -> pd.DataFrame:
    """Rows of crossing/candidates from those of curvature/bound, two a candidate.

    ``transitions`` are D* of the rectified law, NaN or missing where unknown. Left out is a
    candidate with fewer than two sizes, or whose curvature term is 0 somewhere.
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


def agreement(candidates: pd.DataFrame, smallest: int, target: int) -> pd.DataFrame:
    """Rows of crossing/agreement: one per reading of the remainder, over the candidates known.

    Sizes are compared within [``smallest``, ``target``], beyond which no data speaks.
    """
    rows = []
    for remainder in REMAINDERS:
        mine = candidates[candidates["remainder"] == remainder] if len(candidates) else candidates
        known = mine[mine["agrees"].notna()] if len(mine) else mine
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
