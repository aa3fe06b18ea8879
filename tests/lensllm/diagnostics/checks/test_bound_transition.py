from dataclasses import replace

import numpy as np
import pytest

from lensllm.diagnostics.checks.bound_transition import find


def crossing(clean, size, low, start=300.0, remainder="fitted"):
    rows = clean.crossings.copy()
    mine = (rows["candidate"] == "a") & (rows["remainder"] == remainder)
    rows.loc[mine, ["crossing_size", "low"]] = size, low
    rows.loc[rows["candidate"] == "a", "transition_size"] = start
    return replace(clean, crossings=rows)


@pytest.mark.parametrize(("low", "fires"), [(25_600.0, False), (25_601.0, True), (np.nan, False)])
def test_all_of_the_interval_must_lie_beyond_the_budget(clean, low, fires):
    """Without one, from two cells, nothing is said."""
    assert fires == bool(find(crossing(clean, 90_000.0, low)))


def test_the_literal_reading_is_not_asked(clean):
    """Its constant has the unit of the loss."""
    assert find(crossing(clean, np.inf, np.inf, remainder="literal")) == []


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (300.0, "D* 300 disagrees"),
        (30_000.0, "D* 30,000 agrees"),
        (np.inf, "D* beyond the target agrees"),
        (np.nan, "no D*"),
    ],
)
def test_the_laws_own_transition_stands_beside_it(clean, start, said):
    (found,) = find(crossing(clean, 90_000.0, 40_000.0, start))

    assert found.candidate == "a"
    assert f"a (n* 90,000, at least 40,000, {said});" in found.message


def test_a_term_that_never_overtakes_the_remainder(clean):
    (found,) = find(crossing(clean, np.inf, 40_000.0))

    assert "a (n* beyond the target, at least 40,000, D* 300 disagrees)" in found.message
