from dataclasses import replace

import numpy as np
import pytest

from lensllm.curves.curve import curves_from_cells
from lensllm.curves.losses import read
from lensllm.diagnostics.checks.transition import find
from lensllm.laws import fit, rectified


def with_transition(clean, size, candidate="a"):
    fits = clean.fits.copy()
    fits.loc[fits["candidate"] == candidate, "transition_size"] = size
    return replace(clean, fits=fits)


@pytest.mark.parametrize(("size", "fires"), [(6400.0, False), (6401.0, True)])
def test_three_sizes_from_the_transition_on_are_enough(clean, size, fires):
    """6,400, 12,800 and 25,600 are the last three."""
    assert fires == bool(find(with_transition(clean, size)))


def test_the_sentence_has_the_numbers(clean):
    (found,) = find(with_transition(clean, 12_000.0))

    assert found.candidate == "a"
    assert "a (2 of 8, D* 12,000);" in found.message


@pytest.mark.parametrize("size", [2e5, np.inf])
def test_a_transition_beyond_the_target_is_not_given_in_digits(clean, size):
    (found,) = find(with_transition(clean, size))

    assert "a (0 of 8, D* beyond the target);" in found.message


def test_only_sizes_that_the_candidate_finished_count(clean):
    losses = clean.curves.losses.copy()
    losses[0, 6] = np.nan
    context = with_transition(clean, 6400.0)

    (found,) = find(replace(context, curves=replace(clean.curves, losses=losses)))

    assert "a (2 of 7, D* 6,400)" in found.message


def test_other_laws_do_not_count(clean):
    fits = clean.fits.copy()
    fits.loc[fits["law"] == "lensllm", "transition_size"] = 1e9

    assert find(replace(clean, fits=fits)) == []


def test_small_budgets_of_a_published_table_are_in_the_pre_power_phase(clean):
    table = read("flan")
    counts = []
    for budget in (3200, 1_638_400):
        curves = curves_from_cells(table.cells, table.metric, budget)
        fits = fit.fits_frame([rectified.fit(curves)])
        (found,) = find(replace(clean, curves=curves, fits=fits, target=1_638_400.0))
        counts.append(int(found.message.partition(": ")[2].split()[0]))

    assert counts[0] > 2 * counts[1]
