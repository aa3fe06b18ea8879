from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lensllm.curves.curve import curves_from_cells
from lensllm.curves.tables import read
from lensllm.diagnostics.checks.ranking import (
    different_tokenizers,
    far_target,
    kernel_at_its_bound,
    missing_sizes,
    sizes_outside_priors,
    too_few_sizes,
    unresolved,
)
from lensllm.laws import fit_lensllm, fit_rectified, fits_frame
from lensllm.predictors.hrb import Scale
from lensllm.spectra.spectrum import Spectrum


# --- LENS101 ----------------------------------------------------------------------------------------
def with_transition(clean, size, candidate="a"):
    fits = clean.fits.copy()
    fits.loc[fits["candidate"] == candidate, "transition_size"] = size
    return replace(clean, fits=fits)


@pytest.mark.parametrize(("size", "fires"), [(6400.0, False), (6401.0, True)])
def test_three_sizes_from_the_transition_on_are_enough(clean, size, fires):
    """6,400, 12,800 and 25,600 are the last three."""
    assert fires == bool(too_few_sizes.find(with_transition(clean, size)))


def test_the_sentence_has_the_numbers(clean):
    (found,) = too_few_sizes.find(with_transition(clean, 12_000.0))

    assert found.candidate == "a"
    assert "a (2 of 8, D* 12,000);" in found.message


@pytest.mark.parametrize("size", [2e5, np.inf])
def test_a_transition_beyond_the_target_is_not_given_in_digits(clean, size):
    (found,) = too_few_sizes.find(with_transition(clean, size))

    assert "a (0 of 8, D* beyond the target);" in found.message


def test_only_sizes_that_the_candidate_finished_count(clean):
    losses = clean.curves.losses.copy()
    losses[0, 6] = np.nan
    context = with_transition(clean, 6400.0)

    (found,) = too_few_sizes.find(replace(context, curves=replace(clean.curves, losses=losses)))

    assert "a (2 of 7, D* 6,400)" in found.message


def test_other_laws_do_not_count(clean):
    fits = clean.fits.copy()
    fits.loc[fits["law"] == "lensllm", "transition_size"] = 1e9

    assert too_few_sizes.find(replace(clean, fits=fits)) == []


def test_small_budgets_of_a_published_table_are_in_the_pre_power_phase(clean):
    table = read("flan")
    counts = []
    for budget in (3200, 1_638_400):
        curves = curves_from_cells(table.cells, table.metric, budget)
        fits = fits_frame([fit_rectified(curves)])
        (found,) = too_few_sizes.find(replace(clean, curves=curves, fits=fits, target=1_638_400.0))
        counts.append(int(found.message.partition(": ")[2].split()[0]))

    assert counts[0] > 2 * counts[1]


# --- LENS102 ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(("target", "fires"), [(25_600 * 32, False), (25_600 * 33, True)])
def test_five_doublings_beyond_the_largest_size_are_the_limit(clean, target, fires):
    assert fires == bool(far_target.find(replace(clean, target=float(target))))


def test_the_largest_size_is_one_that_somebody_finished(clean):
    losses = clean.curves.losses.copy()
    losses[:, 4:] = np.nan
    context = replace(clean, curves=replace(clean.curves, losses=losses))

    (found,) = far_target.find(context)

    assert "D = 100,000 is 6.0 doublings beyond D = 1,600, the largest" in found.message


def test_a_target_inside_the_sizes_is_near(clean):
    assert far_target.find(replace(clean, target=1000.0)) == []


def test_without_any_loss_there_is_no_distance(clean):
    nothing = np.full((6, 8, 1), np.nan)

    assert far_target.find(replace(clean, curves=replace(clean.curves, losses=nothing))) == []


# --- LENS103 ----------------------------------------------------------------------------------------
def with_width(clean, widths, predicted=(1.0, 1.1, 1.2)):
    """Intervals of these widths in log loss, in an odd place around the predictions."""
    predicted, widths = np.array(predicted), np.array(widths)
    rows = {
        "candidate": list("abc")[: len(predicted)],
        "predicted": predicted,
        "low": predicted * np.exp(-0.2 * widths),
        "high": predicted * np.exp(0.8 * widths),
    }
    return replace(clean, predictions=pd.DataFrame(rows).assign(p_best=0.3))


@pytest.mark.parametrize(("width", "fires"), [(np.log(1.19), False), (np.log(1.21), True)])
def test_the_median_width_against_the_range(clean, width, fires):
    assert fires == bool(unresolved.find(with_width(clean, [0.01, width, 9.0])))


def test_the_sentence_has_both_numbers(clean):
    (found,) = unresolved.find(with_width(clean, [np.log(1.3)] * 3))

    assert "within 20.0 % of each other and the median 80 % interval spans 30.0 %," in found.message


def test_candidates_without_a_prediction_do_not_count(clean):
    narrow = with_width(clean, [0.1] * 3, predicted=(1.0, 1.2, np.nan))

    assert unresolved.find(narrow) == []


def test_one_prediction_is_no_ranking(clean):
    assert unresolved.find(with_width(clean, [9.0], predicted=(1.0,))) == []


# --- LENS106 ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("t", "detail"), [(0.0, "a (t = 0, F = F(0));"), (np.inf, "a (t = ∞, F = F(∞));")]
)
def test_both_ends_of_the_range(clean, t, detail):
    fits = clean.fits.copy()
    fits.loc[(fits["candidate"] == "a") & (fits["law"] == "lensllm"), "t"] = t

    (found,) = kernel_at_its_bound.find(replace(clean, fits=fits))

    assert found.candidate == "a"
    assert detail in found.message


def test_a_measured_time_is_no_bound(clean):
    fits = clean.fits.replace({"law": {"lensllm": "lensllm_phase"}}).assign(t=0.0)

    assert kernel_at_its_bound.find(replace(clean, fits=fits)) == []


def test_of_a_real_fit_those_fire_whose_offset_the_kernel_cannot_give(clean):
    """Taken literally, F(0) = 2 is far below the pre-learned sizes; with F(0) = 5,000 it is not."""
    eigenvalues = np.array([1.0, 0.1])
    counts = []
    for total in (2.0, 5000.0):
        spectra = (Spectrum(eigenvalues, np.full(2, total / 2)),) * 6
        fit = fit_lensllm(replace(clean.curves, spectra=spectra), kernel_scale="literal")
        counts.append(kernel_at_its_bound.find(replace(clean, fits=fits_frame([fit]))))

    assert "6 candidates, a (t = 0, F = F(0))" in counts[0][0].message
    assert [found for found in counts[1] if "t = 0" in found.message] == []


# --- LENS107 ----------------------------------------------------------------------------------------
ONE = dict.fromkeys("abcdef", "x")


@pytest.mark.parametrize(
    ("tokenizers", "reason"),
    [
        ({**ONE, "c": "y"}, "and the 6 candidates have 2 tokenizers;"),
        ({"a": "x", "b": "y"}, "and the 6 candidates have 2 tokenizers;"),
        ({"a": "x", "b": "x"}, "and whether these candidates do is not known;"),
        ({**ONE, "c": ""}, "and whether these candidates do is not known;"),
        (None, "and whether these candidates do is not known;"),
    ],
)
def test_losses_per_token_need_one_tokenizer(clean, tokenizers, reason):
    (found,) = different_tokenizers.find(
        replace(clean, metric="nats_per_token", tokenizers=tokenizers)
    )

    assert found.candidate == ""
    assert reason in found.message


def test_one_tokenizer_is_one_unit(clean):
    assert different_tokenizers.find(replace(clean, metric="nats_per_token", tokenizers=ONE)) == []


def test_tokenizers_of_others_do_not_count(clean):
    others = ONE | {"elsewhere": "y"}

    assert (
        different_tokenizers.find(replace(clean, metric="nats_per_token", tokenizers=others)) == []
    )


def test_bytes_are_the_same_for_all(clean):
    assert different_tokenizers.find(replace(clean, metric="bits_per_byte", tokenizers=None)) == []


# --- LENS109 ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("smallest", [10.0, 49.0, 50.0, 199.0, 200.0, 5000.0])
@pytest.mark.parametrize("target", [1e6, 2e6, 7.9e6, 8.1e6, 1e9])
def test_it_fires_where_hrb_moves_its_prior_by_more_than_a_factor_of_four(clean, smallest, target):
    curves = clean.curves
    curves = replace(curves, sizes=curves.sizes * smallest / curves.sizes[0])

    found = sizes_outside_priors.find(replace(clean, curves=curves, target=target))

    assert bool(found) == (smallest < 50 or target > 8e6)
    assert not found or Scale.of(smallest, target) != Scale(0.0, 1.0)


def test_the_sentence_has_both_ranges(clean):
    (found,) = sizes_outside_priors.find(replace(clean, target=3e7))

    assert "from 200 to 30,000,000 are not within 200–2,000,000," in found.message


# --- LENS110 ----------------------------------------------------------------------------------------
def missing(clean, cells):
    losses = clean.curves.losses.copy()
    for i, j in cells:
        losses[i, j] = np.nan
    return replace(clean, curves=replace(clean.curves, losses=losses))


def test_missing_sizes_are_named(clean):
    (found,) = missing_sizes.find(missing(clean, [(1, 0), (1, 3)]))

    assert found.candidate == "b"
    assert "b (6 of 8, without 200, 1,600);" in found.message


def test_a_curve_that_stopped_early_names_the_first_three(clean):
    (found,) = missing_sizes.find(missing(clean, [(5, j) for j in range(3, 8)]))

    assert "f (3 of 8, without 1,600, 3,200, 6,400 …);" in found.message


def test_a_size_that_nobody_finished_is_no_gap(clean):
    assert missing_sizes.find(missing(clean, [(i, 2) for i in range(6)])) == []


def test_one_seed_of_a_cell_is_enough(clean):
    losses = clean.curves.losses.copy()
    losses[0, 2, :2] = np.nan

    assert missing_sizes.find(replace(clean, curves=replace(clean.curves, losses=losses))) == []
