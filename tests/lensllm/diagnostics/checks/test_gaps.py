from dataclasses import replace

import numpy as np

from lensllm.diagnostics.checks.gaps import find


def missing(clean, cells):
    losses = clean.curves.losses.copy()
    for i, j in cells:
        losses[i, j] = np.nan
    return replace(clean, curves=replace(clean.curves, losses=losses))


def test_missing_sizes_are_named(clean):
    (found,) = find(missing(clean, [(1, 0), (1, 3)]))

    assert found.candidate == "b"
    assert "b (6 of 8, without 200, 1,600);" in found.message


def test_a_curve_that_stopped_early_names_the_first_three(clean):
    (found,) = find(missing(clean, [(5, j) for j in range(3, 8)]))

    assert "f (3 of 8, without 1,600, 3,200, 6,400 …);" in found.message


def test_a_size_that_nobody_finished_is_no_gap(clean):
    assert find(missing(clean, [(i, 2) for i in range(6)])) == []


def test_one_seed_of_a_cell_is_enough(clean):
    losses = clean.curves.losses.copy()
    losses[0, 2, :2] = np.nan

    assert find(replace(clean, curves=replace(clean.curves, losses=losses))) == []
