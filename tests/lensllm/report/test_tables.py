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
    wide = data.all_predictions.copy()
    wide.loc[wide["candidate"] == data.candidates[0], "high"] = 1e6
    changed = replace(data, all_predictions=wide)
    assert tables.ranking(changed)[0].bar.high == 100
    assert tables.scale(changed)[1] < 4


def test_missing_numbers_draw_nothing(make):
    """No truth, no mark; no interval, no bar."""
    data = make(truth=False)
    endless = data.all_predictions.assign(low=np.nan, high=np.nan)
    bar = tables.ranking(replace(data, all_predictions=endless))[0].bar
    assert (bar.low, bar.high, bar.measured) == (None, None, None)
    assert bar.predicted is not None


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


def test_unknown_parameters_are_nan(data, replayed):
    """A table of losses need not say how large its models are."""
    assert all(math.isnan(count) for count in tables.parameters(replayed(data)).values())
    assert {math.nan} != set(tables.parameters(data).values())


def test_the_choice_is_marked_wherever_it_ranks(data):
    """Exactly one row is the choice."""
    rows = data.all_predictions
    unsure = rows["cautious"].where(rows["candidate"] != data.candidates[0], 99.0)
    careful = tables.ranking(replace(data, all_predictions=rows.assign(cautious=unsure)))
    assert [row.rank for row in careful if row.chosen] == [2]
    assert [row.rank for row in tables.ranking(data) if row.chosen] == [1]


def test_dropped_by_intent_is_not_incomplete(data, raced):
    """A policy gave these candidates no more; a failed cell is another matter."""
    data = raced(data)
    assert tables.incomplete(data) == []
    lost = (data.cells["candidate"] == data.candidates[0]) & (data.cells["size"] == 3200)
    expected = [f"{data.candidates[0]} (6 of 7 sizes)"]
    assert expected == tables.incomplete(replace(data, cells=data.cells[~lost]))


def test_unknown_cost_has_no_lines(data, replayed):
    """Nothing is known of what others spent."""
    assert tables.cost(replayed(data)) == []


@pytest.mark.parametrize(
    ("predictor", "expected"), [("stack", "rectified"), ("vanilla", "vanilla")]
)
def test_one_law_is_shown_and_the_others_folded(data, predictor, expected):
    """The predictor's own; behind a predictor that is no law, the rectified one."""
    rows = data.all_predictions.assign(predictor=predictor)
    first, others = tables.laws(replace(data, default_predictor=predictor, all_predictions=rows))
    assert {expected} == {row.law for row in first}
    assert {"rectified", "vanilla"} - {expected} == {row.law for row in others}
