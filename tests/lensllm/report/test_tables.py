"""The rows of the tables."""

import math
from dataclasses import replace

import numpy as np
import pytest

from lensllm.report import tables


def test_ranking_rows_repeat_the_predictions(data):
    """Nothing is recomputed on the way to the page."""
    rows = tables.ranking(data)
    assert list(data.ranking["predicted"]) == [row.predicted for row in rows]
    assert list(data.ranking["measured_rank"]) == [row.measured_rank for row in rows]
    assert rows[0].parameters == 1_210_000
    first = data.ranking.iloc[0]
    expected = first["predicted"] / first["measured"] - 1
    assert expected == pytest.approx(rows[0].relative_error)


def test_bars_lie_on_one_scale(data):
    """Equal losses stand at equal places, whoever predicted them."""
    low, high = tables.scale(data)
    for row in tables.ranking(data):
        place = 100 * (row.predicted - low) / (high - low)
        assert place == pytest.approx(row.bar.predicted, abs=0.01)
        assert 0 <= row.bar.low <= row.bar.predicted <= row.bar.high <= 100


def test_one_endless_interval_does_not_set_the_scale(data):
    """It runs to the edge of a scale that still tells the candidates apart."""
    wide = data.predictions.copy()
    wide.loc[wide["candidate"] == data.candidates[0], "high"] = 1e6
    changed = replace(data, predictions=wide)
    assert tables.ranking(changed)[0].bar.high == 100
    assert tables.scale(changed)[1] < 4


def test_missing_numbers_draw_nothing(make):
    """No truth, no mark; no interval, no bar."""
    data = make(truth=False)
    data.predictions[["low", "high"]] = np.nan
    bar = tables.ranking(data)[0].bar
    assert (bar.low, bar.high, bar.measured) == (None, None, None)
    assert bar.predicted is not None


def test_predictors_start_with_the_default_then_by_regret(data):
    """The answer first, then whose choice costs least."""
    lines = tables.predictors(data)
    assert [line.name for line in lines] == ["stack", "rectified", "sub_tuning"]
    best = tables.best_scores(lines)
    assert (best["rel_acc"], best["regret"], best["p_best_log_score"]) == (1.0, 0.0, 0.55)
    assert "coverage_80" not in best  # neither more nor less is better


def test_predictors_without_a_truth_have_no_scores(make):
    """They are still compared by what they would choose."""
    lines = tables.predictors(make(truth=False))
    assert lines[0].name == "stack"
    assert {} == lines[0].scores == tables.best_scores(lines)


def test_phase_says_where_the_budget_stands(data):
    """D* beyond the budget: the power phase has not been seen."""
    drawn, other = tables.laws(data)
    assert {"rectified"} == {row.law for row in drawn}
    assert {"vanilla"} == {row.law for row in other}
    for row in drawn:
        expected = "power" if row.fit["transition_size"] <= data.budget else "pre-power"
        assert expected == row.phase
    assert {"power", "pre-power"} == {row.phase for row in drawn}


def test_incomplete_counts_sizes_up_to_the_budget(data):
    """A candidate that lost cells is named with what it has."""
    assert tables.incomplete(data) == []
    cells = data.cells
    lost = (cells["candidate"] == "t5-mini-docs") & cells["size"].isin([1600, 3200])
    assert tables.incomplete(replace(data, cells=cells[~lost])) == ["t5-mini-docs (5 of 7 sizes)"]


def test_cost_counts_only_what_the_decision_needed(data):
    """Seconds of cells beyond the budget are the price of the truth, not of the ranking."""
    lines = tables.cost(data)
    paid = data.machine[data.machine["size"] <= data.budget]
    total = tables.total(lines)
    assert paid["seconds"].sum() == pytest.approx(total.seconds)
    assert data.cost["spent_flops"].sum() == pytest.approx(total.spent_flops)
    assert total.spent_flops / total.full_flops == total.share


def test_cost_without_machine_records(data):
    """Tables that others measured have no seconds."""
    total = tables.total(tables.cost(replace(data, machine=data.machine.iloc[:0])))
    assert math.isnan(total.seconds)
    assert math.isnan(total.peak_memory_bytes)
    assert total.spent_flops > 0
