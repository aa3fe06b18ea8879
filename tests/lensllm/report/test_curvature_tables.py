"""Layers, transitions and the bound's worth, as numbers and in words."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lensllm.report import curvature_tables


def test_layers_show_the_largest_terms_of_the_largest_cell(data):
    """What is left out is said as its share of Σ √h."""
    name = data.candidates[0]
    mine = data.layers[data.layers["candidate"] == name]
    others = [mine.iloc[:1].assign(size=100), mine.iloc[:2].assign(seed=1)]
    both = replace(data, layers=pd.concat([*others, data.layers], ignore_index=True))
    first = curvature_tables.layers(both)[0]
    assert (name, 3200, 0, 12) == (first.candidate, first.size, first.seed, first.hidden)
    roots = np.sqrt(np.sort(mine["vhv_positive_max"])[::-1])
    assert roots[12:].sum() / roots.sum() == pytest.approx(first.hidden_share)
    assert first.shown["vhv_positive_max"].is_monotonic_decreasing


def test_layers_stand_in_the_order_of_the_ranking(data):
    """And a candidate without any is passed over."""
    lost = data.candidates[1]
    some = replace(data, layers=data.layers[data.layers["candidate"] != lost])
    named = [table.candidate for table in curvature_tables.layers(some)]
    assert [name for name in data.candidates if name != lost] == named


def test_transitions_in_words(data):
    """Each of the places that n* can have."""
    rows = {row.candidate: row for row in curvature_tables.transitions(data)}
    assert data.candidates == list(rows)
    fitted = [rows[name].fitted for name in data.crossings["candidate"].unique()]
    assert [(r.size, r.interval, r.agrees) for r in fitted] == [
        ("< 1", "< 1 to 40", "yes"),
        ("900", "300 to 5,000", "yes"),
        ("∞", "4,000 to ∞", "yes"),
        ("2,000", "", "no"),
        ("–", "", "–"),
        ("< 1", "< 1 to < 1", "no"),
    ]
    assert rows["t5-mini-docs"].literal.interval == "< 1 to 2"
    assert rows["t5-mini-docs"].literal.agrees == "no"
    assert rows["t5-mini-docs"].start == "8,000"


def test_the_error_of_the_constant_is_that_of_its_logarithm(data):
    """C₃ = 2.5 with a standard error of .3 in its logarithm."""
    rows = {row.candidate: row for row in curvature_tables.transitions(data)}
    row = rows["t5-mini-docs"]
    assert (row.c3, row.c3_error) == (2.5, pytest.approx(0.75))
    assert (row.beta3, row.beta3_error, row.cells) == (0.2, 0.04, 2)


def test_agreement_in_words(data):
    """Counts, and the interval's share only where there is one."""
    literal, fitted = curvature_tables.agreement(data)
    assert literal == (
        "With the remainder as n^(−3/4) nats, the bound’s and the law’s transition lie on the same "
        "side of the budget for 3 of 6 candidates and 2.2 doublings apart in the median; D* is "
        "within the interval of n* for 0 %."
    )
    assert "for 6 of 6 candidates and 0.5 doublings apart in the median." in fitted


def test_the_bounds_worth_is_said_either_way(data):
    """At whatever size it is vacuous."""
    assert curvature_tables.worth(data).startswith("No bound is vacuous: each is lower than")
    first = data.bounds["candidate"] == data.candidates[0]
    for size in (800, 3200):
        high = data.bounds["bound"].mask(first & (data.bounds["size"] == size), 7.6)
        text = curvature_tables.worth(replace(data, bounds=data.bounds.assign(bound=high)))
        assert text.startswith("1 of 12 bounds, one per candidate and size, are vacuous")


def test_its_time_is_a_share_of_that_of_the_cells_paid_for(data):
    paid = data.machine["size"] <= data.budget
    machine = data.machine.assign(seconds=paid.map({True: 5 * 168 / paid.sum(), False: 1e9}))

    text = curvature_tables.worth(replace(data, machine=machine))

    assert data.bounds["seconds"].sum() == 168
    assert text.endswith("Measuring it took 20 % of the time of the sweep's cells.")


def test_nothing_to_show(data, replayed):
    """Where no curvature was measured there are no rows."""
    bare = replayed(data)
    assert [] == curvature_tables.layers(bare) == curvature_tables.transitions(bare)
    assert curvature_tables.agreement(bare) == []
