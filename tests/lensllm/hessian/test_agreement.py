"""The tables of crossings and of their agreement, on curves made by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from lensllm.hessian.agreement import across, agreement

SIZES = np.array([100, 200, 400, 800])


def _bounds(**terms: np.ndarray) -> pd.DataFrame:
    frames = [
        pd.DataFrame({"candidate": n, "size": SIZES, "curvature_term": t, "gap": 0.5 * t})
        for n, t in terms.items()
    ]
    return pd.concat(frames, ignore_index=True)


def _term(crossing: float, beta3: float = 0.25) -> np.ndarray:
    """C₃ n^(−β₃) that meets n^(−3/4) at ``crossing``."""
    return crossing ** (beta3 - 0.75) * SIZES**-beta3


def test_a_row_per_candidate_and_reading():
    rows = across(_bounds(a=_term(50), b=_term(3000)), {"a": 120.0, "b": 90.0}, 800, seed=0)
    literal = rows[rows["remainder"] == "literal"].set_index("candidate")
    assert list(rows["candidate"]) == ["a", "a", "b", "b"]
    assert literal.loc["a", "crossing_size"] == pytest.approx(50)
    assert literal.loc["b", "crossing_size"] == pytest.approx(3000)
    assert literal.loc["b", "beta3"] == pytest.approx(0.25)
    assert literal["agrees"].tolist() == [True, False]


def test_without_a_transition_there_is_nothing_to_agree_with():
    rows = across(_bounds(a=_term(50)), {"a": math.nan}, 800, seed=0)
    assert rows["agrees"].tolist() == [None, None]
    assert agreement(rows, 100, 1600).empty


def test_a_candidate_without_curvature_is_left_out():
    flat = _term(50) * [1, 1, 0, 1]
    rows = across(_bounds(a=_term(50), flat=flat), {"a": 120.0, "flat": 120.0}, 800, seed=0)
    assert set(rows["candidate"]) == {"a"}


def test_agreement_by_hand():
    bounds = _bounds(a=_term(200), b=_term(10), c=_term(1e6))
    rows = across(bounds, {"a": 400.0, "b": 20.0, "c": 150.0}, 800, seed=0)
    found = agreement(rows, 100, 1600).set_index("remainder").loc["literal"]
    assert found["candidates"] == 3
    assert found["same_phase"] == pytest.approx(2 / 3)
    # a: 200 against 400; b: both before the first size; c: beyond the target against 150
    assert found["doublings"] == pytest.approx(1.0)
    assert found["within_interval"] == 0.0


def test_no_candidates():
    assert agreement(pd.DataFrame(), 100, 1600).empty
