"""Subsets: nested, disjoint from what is held out, and the same for every candidate."""

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from lensllm.core import seeds
from lensllm.core.errors import DataError
from lensllm.data import sampling


def rows(roles: pd.DataFrame, role: str) -> list[int]:
    return roles[roles["role"] == role].sort_values("rank")["row"].tolist()


given_split = st.lists(st.sampled_from(["train", "train", "test"]), min_size=12, max_size=60)
no_split = st.integers(12, 60).map(lambda n: [""] * n)


@given(given_split | no_split, st.integers(0, 3), st.integers(0, 3))
def test_no_row_has_two_roles_and_none_is_lost(split: list[str], seed: int, repeat: int):
    series = pd.Series(split)
    tests = series.eq("test").sum() or 3
    if series.ne("test").sum() <= 2:
        return
    roles = sampling.split_examples(series, validation=2, test=int(tests), seed=seed, repeat=repeat)
    assert list(range(len(split))) == sorted(roles["row"])
    assert len(rows(roles, "validation")) == 2
    if "test" in split:
        assert {"test"} == set(series[rows(roles, "test")])


def test_repeats_share_what_is_held_out_and_differ_in_order():
    split = pd.Series(["train"] * 90 + ["test"] * 10)
    one, two = (
        sampling.split_examples(split, validation=20, test=10, seed=5, repeat=r) for r in (0, 1)
    )
    for role in ("test", "validation"):
        assert rows(one, role) == rows(two, role)
    assert rows(one, "train") != rows(two, "train")
    assert sorted(rows(one, "train")) == sorted(rows(two, "train"))


def test_the_subset_does_not_depend_on_the_size_of_the_sweep():
    split = pd.Series([""] * 100)
    again = [
        sampling.split_examples(split, validation=5, test=5, seed=1, repeat=0) for _ in range(2)
    ]
    pd.testing.assert_frame_equal(*again)


@pytest.mark.parametrize(
    ("count", "validation", "test", "sentence"),
    [
        (10, 2, 20, "has 10 test examples, data.test_examples asks for 20"),
        (10, 8, 2, "8 examples are left after the test set"),
    ],
)
def test_too_little_data_is_a_sentence(count: int, validation: int, test: int, sentence: str):
    with pytest.raises(DataError, match=sentence):
        sampling.split_examples(
            pd.Series([""] * count), validation=validation, test=test, seed=0, repeat=0
        )


@given(
    st.lists(st.sampled_from("aaaaabbbcd"), min_size=4, max_size=60),
    st.integers(0, 3),
    st.integers(0, 2),
)
def test_every_prefix_of_a_stratified_order_has_the_strata_in_proportion(
    values: list[str], seed: int, repeat: int
):
    """To the last unit: the shares of n rows times D, rounded down or up."""
    strata = np.array(values)
    order = sampling.stratified(
        np.arange(len(values)), strata, seeds.generator(seed, "subset", repeat)
    )
    assert sorted(order) == list(range(len(values)))
    for size in range(1, len(values) + 1):
        for value, count in Counter(values).items():
            exact = Fraction(size * count, len(values))
            taken = int((strata[order[:size]] == value).sum())
            assert math.floor(exact) <= taken <= math.ceil(exact)


def test_strata_are_in_proportion_in_all_that_is_drawn():
    strata = pd.Series(["rare"] * 20 + ["often"] * 180)
    split = pd.Series([""] * 200)
    settings = {"validation": 20, "test": 40, "seed": 0}
    drawn = sampling.split_examples(split, strata, **settings, repeat=0)
    counts = {r: int((strata[rows(drawn, r)] == "rare").sum()) for r in ("test", "validation")}
    assert counts == {"test": 4, "validation": 2}
    train = rows(drawn, "train")
    assert [int((strata[train[:d]] == "rare").sum()) for d in (10, 50, 100)] == [1, 5, 10]
    again = sampling.split_examples(split, strata, **settings, repeat=1)
    assert rows(again, "test") == rows(drawn, "test")
    assert rows(again, "train") != train


def test_a_stratum_for_every_row_is_a_sentence():
    strata = pd.Series(map(str, range(30)))
    with pytest.raises(DataError, match="another value in almost every example"):
        sampling.split_examples(
            pd.Series([""] * 30), strata, validation=2, test=2, seed=0, repeat=0
        )


def test_a_validation_set_of_its_own_is_neither_drawn_from_nor_trained_on():
    split = pd.Series([""] * 30 + ["validation"] * 8)
    drawn = sampling.split_examples(split, validation=5, test=6, seed=0, repeat=0)
    assert set(rows(drawn, "validation")) <= set(range(30, 38))
    assert set(rows(drawn, "test") + rows(drawn, "train")) == set(range(30))
    with pytest.raises(DataError, match=r"8 validation examples, data.validation_examples asks"):
        sampling.split_examples(split, validation=9, test=6, seed=0, repeat=0)


def test_sizes_beyond_what_is_kept_are_a_sentence():
    sampling.check_sizes(1000, [50, 100], kept=100)
    with pytest.raises(DataError, match=r"trains on 200 .* 100 of 1,000 are kept; set data.keep"):
        sampling.check_sizes(1000, [50, 200], kept=100)


def test_sizes_beyond_the_data_are_a_sentence():
    sampling.check_sizes(100, [50, 100])
    with pytest.raises(DataError, match=r"needs 1,600 training examples and the data has 100"):
        sampling.check_sizes(100, [50, 1600])


def test_drift_against_its_definitions():
    targets = ["a b", "a c c", "a b", "d"] * 5
    table = sampling.drift(targets, [4, 10])
    assert table["size"].tolist() == [4, 10, 20]

    first = table.iloc[0]
    lengths = np.array([len(t) for t in targets])
    assert lengths[:4].mean() == first["mean_target_bytes"]
    assert pytest.approx(first["target_length_ks"]) == 0.0  # four in a row have all lengths
    assert pytest.approx(first["vocabulary_js_bits"], abs=1e-12) == 0.0

    small = sampling.drift(targets, [1]).iloc[0]
    full = np.array([15, 10, 10, 5]) / 40  # a, b, c, d
    seen = np.array([1, 1, 0, 0]) / 2
    middle = (full + seen) / 2
    expected = (entropy(full, middle, base=2) + entropy(seen, middle, base=2)) / 2
    assert expected == pytest.approx(small["vocabulary_js_bits"])
    assert pytest.approx(small["vocabulary_coverage"]) == 25 / 40
    last = table.iloc[-1]
    assert pytest.approx(
        [last["target_length_ks"], last["vocabulary_js_bits"], last["vocabulary_coverage"]]
    ) == [0.0, 0.0, 1.0]
