from dataclasses import replace

import numpy as np
import pytest

from lensllm.diagnostics.checks.curvature import (
    dominant_layer,
    loss_above_bound,
    out_of_family,
    pre_power_by_bound,
    sharpening,
    vacuous,
    vacuous_bound,
)


# --- LENS201 ----------------------------------------------------------------------------------------
def crossing(clean, size, low, start=300.0, remainder="fitted"):
    rows = clean.crossings.copy()
    mine = (rows["candidate"] == "a") & (rows["remainder"] == remainder)
    rows.loc[mine, ["crossing_size", "low"]] = size, low
    rows.loc[rows["candidate"] == "a", "transition_size"] = start
    return replace(clean, crossings=rows)


@pytest.mark.parametrize(("low", "fires"), [(25_600.0, False), (25_601.0, True), (np.nan, False)])
def test_all_of_the_interval_must_lie_beyond_the_budget(clean, low, fires):
    """Without one, from two cells, nothing is said."""
    assert fires == bool(pre_power_by_bound.find(crossing(clean, 90_000.0, low)))


def test_the_literal_reading_is_not_asked(clean):
    """Its constant has the unit of the loss."""
    assert pre_power_by_bound.find(crossing(clean, np.inf, np.inf, remainder="literal")) == []


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
    (found,) = pre_power_by_bound.find(crossing(clean, 90_000.0, 40_000.0, start))

    assert found.candidate == "a"
    assert f"a (n* 90,000, at least 40,000, {said});" in found.message


def test_a_term_that_never_overtakes_the_remainder(clean):
    (found,) = pre_power_by_bound.find(crossing(clean, np.inf, 40_000.0))

    assert "a (n* beyond the target, at least 40,000, D* 300 disagrees)" in found.message


# --- LENS202 ----------------------------------------------------------------------------------------
def scaled(clean, factor, size=25_600, candidate="a", seed=None):
    """The trace of a candidate's cells at a size, times ``factor``: 100 ± 2 elsewhere."""
    layers = clean.layers.copy()
    cells = (layers["size"] == size) & (layers["candidate"] == candidate)
    if seed is not None:
        cells &= layers["repeat"] == seed
    layers.loc[cells, "trace"] *= factor
    return replace(clean, layers=layers)


@pytest.mark.parametrize(("factor", "fires"), [(1.24, False), (1.26, True), (0.5, False)])
def test_a_rise_by_a_quarter_is_told(clean, factor, fires):
    assert fires == bool(sharpening.find(scaled(clean, factor)))


def test_a_rise_within_the_errors_is_not(clean):
    """150 ± 20 against 100 ± 20 for each of two seeds: a rise of 50 ± 20."""
    context = scaled(clean, 1.5)

    assert sharpening.find(replace(context, layers=context.layers.assign(trace_stderr=10.0))) == []


def test_the_sentence_has_the_numbers(clean):
    """Four layers of ± 1 are ± 2 a cell; a rise has two of them, and the mean is over two seeds."""
    (found,) = sharpening.find(scaled(clean, 2.0))

    assert "a (trace 100 at 200 and 200 at 25,600, a rise of 100 ± 2)" in found.message


def test_seeds_that_contradict_each_other_are_no_rise(clean):
    """Rises of 0 and 200: 100 on average, ± 100."""
    assert sharpening.find(scaled(clean, 3.0, seed=0)) == []


def test_one_seed_has_the_probes_errors_alone(clean):
    context = scaled(clean, 2.0)

    (found,) = sharpening.find(replace(context, layers=context.layers.query("repeat == 1")))

    assert "a rise of 100 ± 2.83)" in found.message


def test_only_the_ends_are_compared(clean):
    assert sharpening.find(scaled(clean, 3.0, size=1600)) == []


def test_a_candidate_with_one_size_is_passed_over(clean):
    """And one whose seeds at both ends are not the same."""
    assert sharpening.find(replace(clean, layers=clean.layers.query("size == 200"))) == []
    context = scaled(clean, 3.0)
    rows = context.layers
    apart = rows[(rows["size"] == 200) == (rows["repeat"] == 0)]
    assert sharpening.find(replace(context, layers=apart)) == []


def test_distances_do_not_matter(clean):
    """‖v‖ grows with every step, and vᵀH⁺v with it."""
    layers = clean.layers
    grown = layers["vhv_positive_max"] * np.where(layers["size"] > 200, 50.0, 1.0)

    assert sharpening.find(replace(clean, layers=layers.assign(vhv_positive_max=grown))) == []


# --- LENS203 ----------------------------------------------------------------------------------------
def with_h(clean, value, layer="h.0", size=25_600):
    """h of one layer of ``a``; the three others have .3 each."""
    layers = clean.layers.copy()
    row = (layers["candidate"] == "a") & (layers["layer"] == layer) & (layers["size"] == size)
    layers.loc[row, "vhv_positive_max"] = value
    return replace(clean, layers=layers)


@pytest.mark.parametrize(("root", "fires"), [(2.9, False), (3.1, True)])
def test_more_than_all_the_others_together(clean, root, fires):
    """√h against three times √.3."""
    assert fires == bool(dominant_layer.find(with_h(clean, 0.3 * root**2)))


def test_layer_and_share_are_named(clean):
    (found,) = dominant_layer.find(with_h(clean, 0.3 * 9**2))

    assert "a (h.0, 75 % of 4 layers)" in found.message


def test_smaller_sizes_do_not_count(clean):
    assert dominant_layer.find(with_h(clean, 300.0, size=1600)) == []


def test_of_three_layers_one_may_be_the_largest(clean):
    layers = with_h(clean, 300.0).layers

    assert dominant_layer.find(replace(clean, layers=layers[layers["layer"] != "ln_f"])) == []


def test_a_model_that_did_not_move_has_no_shares(clean):
    assert (
        dominant_layer.find(replace(clean, layers=clean.layers.assign(vhv_positive_max=0.0))) == []
    )


# --- LENS204 ----------------------------------------------------------------------------------------
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
    assert fires == bool(out_of_family.find(with_eigenvalues(clean, {"a": value})))


def test_the_sentence_has_both_eigenvalues(clean):
    (found,) = out_of_family.find(with_eigenvalues(clean, {"a": 320.0}))

    assert "a (λ max 320 against 32, median of 3 other gpt2)" in found.message


def test_a_family_that_differs_within_itself_has_no_outlier(clean):
    """9, 30 and 100 lie apart by factors of 3.3, and 300 by another one."""
    assert (
        out_of_family.find(with_eigenvalues(clean, {"a": 300.0, "b": 9.0, "c": 30.0, "d": 100.0}))
        == []
    )


def test_one_outlier_does_not_hide_another(clean):
    found = out_of_family.find(with_eigenvalues(clean, {"a": 400.0}))
    both = out_of_family.find(
        replace(
            with_eigenvalues(clean, {"a": 400.0, "e": 900.0}),
            curves=replace(clean.curves, families=("gpt2",) * 6),
        )
    )

    assert [f.candidate for f in found] == ["a"]
    assert [f.candidate for f in both] == ["a", "e"]


def test_other_families_and_unknown_ones_do_not_count(clean):
    assert out_of_family.find(with_eigenvalues(clean, {"e": 900.0, "f": 900.0})) == []
    nameless = replace(clean, curves=replace(clean.curves, families=None))
    assert out_of_family.find(with_eigenvalues(nameless, {"a": 900.0})) == []


def test_one_relative_is_not_enough(clean):
    curves = replace(clean.curves, families=("gpt2", "gpt2", "t5", "t5", "opt", ""))

    assert out_of_family.find(replace(with_eigenvalues(clean, {"a": 900.0}), curves=curves)) == []


def test_candidates_are_compared_at_one_size(clean):
    """One whose curvature failed at the largest size is left out, whatever it was before."""
    context = with_eigenvalues(clean, {"a": 900.0}, size=1600)
    rows = context.layers
    failed = rows[(rows["candidate"] != "a") | (rows["size"] < 25_600)]

    assert out_of_family.find(replace(context, layers=failed)) == []


@pytest.mark.parametrize("value", [0.0, -2.0, np.nan])
def test_an_eigenvalue_without_a_logarithm_is_left_out(clean, value):
    assert out_of_family.find(with_eigenvalues(clean, {"a": value})) == []


# --- LENS205 ----------------------------------------------------------------------------------------
def changed(clean, size=25_600, seed=None, **values):
    bounds = clean.bounds.copy()
    cells = (bounds["candidate"] == "a") & (bounds["size"] == size)
    if seed is not None:
        cells &= bounds["repeat"] == seed
    bounds.loc[cells, list(values)] = list(values.values())
    return replace(clean, bounds=bounds)


@pytest.mark.parametrize(
    ("values", "known"),
    [
        ({"bound": 8.0}, "at D = 25,600 it is 8.00 nats and a guess costs 8.00"),
        ({"bound": 9.5}, "at D = 25,600 it is 9.50 nats and a guess costs 8.00"),
        (
            {"bound": 7.0, "loss_bound": 6.5},
            "at D = 25,600 it is 7.00 nats and the largest loss is 6.50",
        ),
        ({"bound": 20.0, "size": 1600}, "at D = 1,600 it is 20.00 nats and a guess costs 8.00"),
    ],
)
def test_it_is_said_whenever_it_is_so(clean, values, known):
    (found,) = vacuous_bound.find(changed(clean, **values))

    assert found.candidate == "a"
    assert f"a (at 1 of 3 sizes; {known});" in found.message


def test_a_bound_below_both_is_not_vacuous(clean):
    assert vacuous_bound.find(changed(clean, bound=7.99)) == []


def test_of_several_sizes_the_largest_has_the_numbers(clean):
    (found,) = vacuous_bound.find(changed(changed(clean, bound=9.0), size=1600, bound=20.0))

    assert "a (at 2 of 3 sizes; at D = 25,600 it is 9.00 nats and" in found.message


def test_seeds_are_averaged(clean):
    (row,) = vacuous(changed(clean, seed=0, bound=14.0).bounds).to_dict("records")

    assert row["bound"] == pytest.approx((14 + 4 + 100 / 25_600) / 2)


# --- LENS206 ----------------------------------------------------------------------------------------
def test_of_the_cells_above_their_bound_the_worst_is_named(clean):
    """Single cells: an average would hide them."""
    bounds = clean.bounds.copy()
    mine = bounds.index[bounds["candidate"] == "a"]
    bounds.loc[mine[:2], "test_nats_per_token"] = 5.0, 6.25  # two seeds at 200, the bound 4.5

    (found,) = loss_above_bound.find(replace(clean, bounds=bounds))

    assert "a (6.25 against 4.50 at 200);" in found.message


def test_at_the_bound_is_not_above_it(clean):
    even = clean.bounds.assign(test_nats_per_token=clean.bounds["bound"])

    assert loss_above_bound.find(replace(clean, bounds=even)) == []


def test_a_loss_that_is_not_known_is_passed_over(clean):
    assert (
        loss_above_bound.find(
            replace(clean, bounds=clean.bounds.assign(test_nats_per_token=np.nan))
        )
        == []
    )
