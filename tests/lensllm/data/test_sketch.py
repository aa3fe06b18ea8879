"""The bottom-k sketch: the same whatever the order, uniform, and honest about its counts."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensllm.data.sketch import Sketch, digest

contents = st.lists(st.integers(0, 30), max_size=80)


def fill(values: list[int], keep: int) -> Sketch[int]:
    sketch = Sketch[int](keep)
    for value in values:
        sketch.add(digest(str(value)), value)
    return sketch


@given(contents, st.integers(1, 40))
def test_it_holds_the_smallest_digests_of_the_distinct_contents(values: list[int], keep: int):
    sketch = fill(values, keep)
    smallest = sorted(set(values), key=lambda v: digest(str(v)))[:keep]
    assert set(sketch.items) == set(smallest)
    firsts = [values.index(v) for v in sketch.items]
    assert firsts == sorted(firsts)
    assert sketch.rows == len(values)
    assert all((digest(str(v)) in sketch) == (v in smallest) for v in set(values))


@given(contents, st.integers(1, 40))
def test_the_distinct_ones_are_counted_exactly_where_they_can_be(values: list[int], keep: int):
    sketch = fill(values, keep)
    kept = Counter(v for v in values if v in set(sketch.items))
    if len(set(values)) <= keep or set(Counter(values).values()) == {1}:
        assert sketch.distinct == len(set(values))
    elif kept:
        assert sketch.distinct == round(len(values) * len(kept) / kept.total())


def test_every_content_is_as_likely_as_any_other():
    """Of 20,000 contents in order, those kept lie evenly over the order."""
    sketch = fill(list(range(20_000)), 2000)
    quarters = Counter(value // 5000 for value in sketch.items)
    assert all(abs(count - 500) < 5 * 500**0.5 for count in quarters.values())


def test_parts_are_told_apart():
    assert digest("a", "bc") != digest("ab", "c")
    assert digest("é") == digest("é")
    with pytest.raises(UnicodeEncodeError):
        digest("\ud83d")
