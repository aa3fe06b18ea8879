from dataclasses import replace

import numpy as np
import pytest

from lensllm.diagnostics.checks.family import find


def with_eigenvalues(clean, values, size=25_600):
    """Largest eigenvalue by candidate; a, b, c and d are gpt2, e is t5, of f nothing is known."""
    layers = clean.layers.copy()
    for name, value in values.items():
        cells = (layers["candidate"] == name) & (layers["size"] == size)
        layers.loc[cells & (layers["layer"] == "h.0"), "largest_eigenvalue"] = value
        layers.loc[cells & (layers["layer"] != "h.0"), "largest_eigenvalue"] = value / 10
    return replace(clean, layers=layers)


@pytest.mark.parametrize(
    ("value", "fires"), [(95.0, False), (97.0, True), (11.0, False), (10.0, True)]
)
def test_a_factor_of_three_in_either_direction(clean, value, fires):
    """The others of its family have 31, 32 and 33."""
    assert fires == bool(find(with_eigenvalues(clean, {"a": value})))


def test_the_sentence_has_the_numbers(clean):
    (found,) = find(with_eigenvalues(clean, {"a": 320.0}))

    assert "a (λ max 320 against 32, median of 3 other gpt2)" in found.message


def test_a_family_that_differs_within_itself_has_no_outlier(clean):
    """9, 30 and 100 lie apart by factors of 3.3, and 300 by another one."""
    assert find(with_eigenvalues(clean, {"a": 300.0, "b": 9.0, "c": 30.0, "d": 100.0})) == []


def test_one_outlier_does_not_hide_another(clean):
    found = find(with_eigenvalues(clean, {"a": 400.0}))
    both = find(
        replace(
            with_eigenvalues(clean, {"a": 400.0, "e": 900.0}),
            curves=replace(clean.curves, families=("gpt2",) * 6),
        )
    )

    assert [f.candidate for f in found] == ["a"]
    assert [f.candidate for f in both] == ["a", "e"]


def test_other_families_and_unknown_ones_do_not_count(clean):
    assert find(with_eigenvalues(clean, {"e": 900.0, "f": 900.0})) == []
    nameless = replace(clean, curves=replace(clean.curves, families=None))
    assert find(with_eigenvalues(nameless, {"a": 900.0})) == []


def test_one_relative_is_not_enough(clean):
    curves = replace(clean.curves, families=("gpt2", "gpt2", "t5", "t5", "opt", ""))

    assert find(replace(with_eigenvalues(clean, {"a": 900.0}), curves=curves)) == []


def test_candidates_are_compared_at_one_size(clean):
    """One whose curvature failed at the largest size is left out, whatever it was before."""
    context = with_eigenvalues(clean, {"a": 900.0}, size=1600)
    rows = context.layers
    failed = rows[(rows["candidate"] != "a") | (rows["size"] < 25_600)]

    assert find(replace(context, layers=failed)) == []


@pytest.mark.parametrize("value", [0.0, -2.0, np.nan])
def test_an_eigenvalue_without_a_logarithm_is_left_out(clean, value):
    assert find(with_eigenvalues(clean, {"a": value})) == []
