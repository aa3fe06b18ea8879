"""The rows about laws, kernels and curvature."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lensllm.report import diagnostic_tables
from lensllm.spectra.spectrum import by_probes, spectrum, standard_error


def with_kernel(data, matrix, kernel, norms):
    """``data`` with one kernel, of the t5."""
    name = "t5-mini-docs"
    return replace(
        data, spectra={name: spectrum(kernel, norms)}, kernel_matrices={name: matrix(kernel, norms)}
    )


def test_a_flat_kernel_has_full_rank(data, matrix):
    """n equal eigenvalues: effective rank n, and every direction decays alike."""
    norms = np.sqrt(np.arange(1.0, 21.0))
    (row,) = diagnostic_tables.kernels(with_kernel(data, matrix, 10 * np.eye(20), norms))
    assert (row["candidate"], row["probes"]) == ("t5-mini-docs", 20)
    assert pytest.approx(row["residual"]) == 210
    assert pytest.approx(row["effective_rank"]) == 20
    shares = [share for share, _ in row["left"]]  # of 16 and of all 20 probes
    assert np.exp(-2 * 10 * row["time"] / np.array([16, 20])) == pytest.approx(shares)


def test_the_time_is_that_of_the_sizes_paid_for(data):
    """The median over the sizes, as the law takes it; the target's own run is not known then."""
    (time,) = {row["time"] for row in diagnostic_tables.kernels(data)}
    sizes = sorted(size for size in data.cells["size"].unique() if 0 < size <= data.budget)
    assert time == pytest.approx(1e-3 * np.median(sizes) * 3 / 16 / 2)


def test_shares_stand_under_the_number_of_probes_they_come_from(data):
    """From 16 on, doubling, and everything there is; each with its own error."""
    assert diagnostic_tables.probe_counts(data) == [16, 32, 40]
    name = data.candidates[0]
    row = diagnostic_tables.kernels(data)[0]
    kernel, norms = diagnostic_tables.probes(data, name)
    assert row["left"][-1][0] == pytest.approx(float(data.spectra[name].share(row["time"])))
    assert row["left"][-1][1] == pytest.approx(float(standard_error(kernel, norms, row["time"])))
    values, errors = by_probes(kernel, norms, [16], row["time"])
    assert row["left"][0] == (values[0], errors[0])


def test_what_a_candidate_cannot_tell_is_left_open(data, matrix):
    """Fewer probes than another one's, or no flow time."""
    few = with_kernel(data, matrix, np.eye(20), np.ones(20))
    both = replace(
        few,
        spectra={**data.spectra, **few.spectra},
        kernel_matrices={**data.kernel_matrices, **few.kernel_matrices},
    )
    rows = {row["candidate"]: row for row in diagnostic_tables.kernels(both)}
    assert [share is None for share in rows["t5-mini-docs"]["left"]] == [False, True, True]
    untimed = replace(data, cells=data.cells.assign(learning_rate_integral=np.nan))
    assert {share for row in diagnostic_tables.kernels(untimed) for share in row["left"]} == {None}


def test_nothing_to_show(data):
    """No kernels are no rows."""
    assert diagnostic_tables.kernels(replace(data, spectra={}, kernel_matrices={})) == []


def _predicting(data, **losses):
    """``data`` with the predictions of some predictors, losses by candidate, in its order."""
    like = data.ranking.iloc[0]
    rows = [
        {**like, "predictor": predictor, "candidate": name, "predicted": loss}
        for predictor, values in losses.items()
        for name, loss in zip(data.candidates, values, strict=False)
    ]
    kept = data.all_predictions[~data.all_predictions["predictor"].isin(losses)]
    return replace(data, all_predictions=pd.concat([kept, pd.DataFrame(rows)]))


def test_a_law_is_compared_with_the_same_without_a_kernel(data):
    found = diagnostic_tables.contributions(
        _predicting(data, rectified=[1.0, 2.0, 3.0], lensllm=[2.1, 2.0, 3.3])
    )
    (row,) = [row for row in found if row["predictor"] == "lensllm"]
    first, second, _ = data.candidates[:3]
    assert row["moved"] == pytest.approx(1.1)
    assert (row["reordered"], row["pairs"]) == (1, 3)
    assert (row["choice"], row["other_choice"]) == (second, first)


def test_without_the_rectified_law_there_is_nothing_to_compare(data):
    kept = data.all_predictions[data.all_predictions["predictor"] != "rectified"]
    assert diagnostic_tables.contributions(replace(data, all_predictions=kept)) == []


def test_layers_show_the_largest_terms_of_the_largest_cell(data):
    """What is left out is said as its share of Σ √h."""
    name = data.candidates[0]
    mine = data.layers[data.layers["candidate"] == name]
    others = [mine.iloc[:1].assign(size=100), mine.iloc[:2].assign(repeat=1)]
    both = replace(data, layers=pd.concat([*others, data.layers], ignore_index=True))
    first = diagnostic_tables.layers(both)[0]
    assert (name, 3200, 0, 12) == tuple(first[k] for k in ("candidate", "size", "repeat", "hidden"))
    roots = np.sqrt(np.sort(mine["vhv_positive_max"])[::-1])
    assert roots[12:].sum() / roots.sum() == pytest.approx(first["hidden_share"])
    assert first["shown"]["vhv_positive_max"].is_monotonic_decreasing


def test_layers_stand_in_the_order_of_the_ranking(data):
    """And a candidate without any is passed over."""
    lost = data.candidates[1]
    some = replace(data, layers=data.layers[data.layers["candidate"] != lost])
    named = [table["candidate"] for table in diagnostic_tables.layers(some)]
    assert [name for name in data.candidates if name != lost] == named


def test_transitions_in_words(data):
    """Each of the places that n* can have."""
    rows = {row["literal"]["candidate"]: row for row in diagnostic_tables.transitions(data)}
    assert data.candidates == list(rows)
    fitted = [rows[name]["fitted"] for name in data.crossings["candidate"].unique()]
    assert [(r["crossing"], r["interval"], r["agreement"]) for r in fitted] == [
        ("< 1", "< 1 to 40", "yes"),
        ("900", "300 to 5,000", "yes"),
        ("∞", "4,000 to ∞", "yes"),
        ("2,000", "", "no"),
        ("–", "", "–"),
        ("< 1", "< 1 to < 1", "no"),
    ]
    assert rows["t5-mini-docs"]["literal"]["interval"] == "< 1 to 2"
    assert rows["t5-mini-docs"]["literal"]["agreement"] == "no"
    assert rows["t5-mini-docs"]["literal"]["start"] == "8,000"


def test_agreement_in_words(data):
    """Counts, and the interval's share only where there is one."""
    literal, fitted = diagnostic_tables.agreement(data)
    assert literal == (
        "With the remainder as n^(−3/4) nats, the bound’s and the law’s transition lie on the same "
        "side of the budget for 3 of 6 candidates and 2.2 doublings apart in the median; D* is "
        "within the interval of n* for 0 %."
    )
    assert "for 6 of 6 candidates and 0.5 doublings apart in the median." in fitted


def test_the_bounds_worth_is_said_either_way(data):
    """At whatever size it is vacuous."""
    assert diagnostic_tables.worth(data).startswith("No bound is vacuous: each is lower than")
    first = data.bounds["candidate"] == data.candidates[0]
    for size in (800, 3200):
        high = data.bounds["bound"].mask(first & (data.bounds["size"] == size), 7.6)
        text = diagnostic_tables.worth(replace(data, bounds=data.bounds.assign(bound=high)))
        assert text.startswith("1 of 12 bounds, one per candidate and size, are vacuous")


def test_its_time_is_a_share_of_that_of_the_cells_paid_for(data):
    paid = data.cell_costs["size"] <= data.budget
    machine = data.cell_costs.assign(seconds=paid.map({True: 5 * 168 / paid.sum(), False: 1e9}))

    text = diagnostic_tables.worth(replace(data, cell_costs=machine))

    assert data.bounds["seconds"].sum() == 168
    assert text.endswith("Measuring it took 20 % of the time of the sweep's cells.")


def test_no_curvature_to_show(data, replayed):
    """Where no curvature was measured there are no rows."""
    bare = replayed(data)
    assert [] == diagnostic_tables.layers(bare) == diagnostic_tables.transitions(bare)
    assert diagnostic_tables.agreement(bare) == []
