"""Labels are moved apart, and no further than needed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensllm.report.labels import spread

heights = st.lists(st.floats(min_value=0, max_value=1), min_size=1, max_size=9)


@given(heights)
def test_neighbours_are_a_gap_apart_and_inside(positions):
    """However the predictions lie, names keep their order, their distance and the frame."""
    moved = np.array(spread(positions, 0.1))
    order = np.argsort(positions, kind="stable")
    assert (np.diff(moved[order]) >= 0.1 - 1e-9).all()
    assert moved.min() >= 0
    assert moved.max() <= 1 + 1e-9


def test_what_is_apart_stays():
    """Labels that do not collide stand exactly at their predictions."""
    assert pytest.approx(spread([0.9, 0.1, 0.5], 0.1)) == [0.9, 0.1, 0.5]


def test_a_pair_parts_evenly():
    """The least squares answer for two equal positions is half a gap each way."""
    assert pytest.approx(spread([0.5, 0.5], 0.1)) == [0.45, 0.55]


def test_nothing_to_spread():
    """No label is no problem."""
    assert spread([], 0.1) == []
