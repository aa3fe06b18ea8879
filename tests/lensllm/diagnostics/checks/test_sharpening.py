from dataclasses import replace

import numpy as np
import pytest

from lensllm.diagnostics.checks.sharpening import find


def scaled(clean, factor, size=25_600, candidate="a", seed=None):
    """The trace of a candidate's cells at a size, times ``factor``: 100 ± 2 elsewhere."""
    layers = clean.layers.copy()
    cells = (layers["size"] == size) & (layers["candidate"] == candidate)
    if seed is not None:
        cells &= layers["seed"] == seed
    layers.loc[cells, "trace"] *= factor
    return replace(clean, layers=layers)


@pytest.mark.parametrize(("factor", "fires"), [(1.24, False), (1.26, True), (0.5, False)])
def test_a_rise_by_a_quarter_is_told(clean, factor, fires):
    assert fires == bool(find(scaled(clean, factor)))


def test_a_rise_within_the_errors_is_not(clean):
    """150 ± 20 against 100 ± 20 for each of two seeds: a rise of 50 ± 20."""
    context = scaled(clean, 1.5)

    assert find(replace(context, layers=context.layers.assign(trace_stderr=10.0))) == []


def test_the_sentence_has_the_numbers(clean):
    """Four layers of ± 1 are ± 2 a cell; a rise has two of them, and the mean is over two seeds."""
    (found,) = find(scaled(clean, 2.0))

    assert "a (trace 100 at 200 and 200 at 25,600, a rise of 100 ± 2)" in found.message


def test_seeds_that_contradict_each_other_are_no_rise(clean):
    """Rises of 0 and 200: 100 on average, ± 100."""
    assert find(scaled(clean, 3.0, seed=0)) == []


def test_one_seed_has_the_probes_errors_alone(clean):
    context = scaled(clean, 2.0)

    (found,) = find(replace(context, layers=context.layers.query("seed == 1")))

    assert "a rise of 100 ± 2.83)" in found.message


def test_only_the_ends_are_compared(clean):
    assert find(scaled(clean, 3.0, size=1600)) == []


def test_a_candidate_with_one_size_is_passed_over(clean):
    """And one whose seeds at both ends are not the same."""
    assert find(replace(clean, layers=clean.layers.query("size == 200"))) == []
    context = scaled(clean, 3.0)
    rows = context.layers
    apart = rows[(rows["size"] == 200) == (rows["seed"] == 0)]
    assert find(replace(context, layers=apart)) == []


def test_distances_do_not_matter(clean):
    """‖v‖ grows with every step, and vᵀH⁺v with it."""
    layers = clean.layers
    grown = layers["vhv_positive_max"] * np.where(layers["size"] > 200, 50.0, 1.0)

    assert find(replace(clean, layers=layers.assign(vhv_positive_max=grown))) == []
