"""What a report is made of, and its look-ups."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lensllm.laws.fit import evaluate


@pytest.mark.parametrize(
    ("fit", "size", "expected"),
    [
        ({"B": 8.0, "beta": 0.5, "E": 1.0, "offset": 0.0}, 16, 3.0),  # vanilla: 8/4 + 1
        ({"B": 8.0, "beta": 0.5, "E": 1.0, "offset": 4.0}, 16, 2.0),  # at D* = 4^(1/0.5) = 16
        ({"B": 8.0, "beta": 1.0, "E": 0.0, "offset": 1.0}, 3, 2.0),
    ],
)
def test_law_at_a_size(data, fit, size, expected):
    """L(D) = B / (offset + D^β) + E, at sizes where it comes out even."""
    row = data.fits.iloc[0].copy()
    row.update(fit)
    assert expected == evaluate(row, size)


def test_law_keeps_the_shape_of_the_sizes(data):
    """One fit is evaluated at an array of sizes and falls along it."""
    losses = evaluate(data.fits.iloc[0], [[100, 200], [400, 800]])
    assert losses.shape == (2, 2)
    assert (np.diff(losses.ravel()) < 0).all()


def test_ranking_is_the_default_predictors_best_first(data):
    """Only the default predictor ranks, in the order of its ranks."""
    assert list(data.ranking["rank"]) == [1, 2, 3, 4, 5, 6]
    assert {"stack"} == set(data.ranking["predictor"])


def test_candidates_without_a_rank_come_last(data):
    """A candidate that has cells but no prediction is still one of the candidates."""
    first = data.candidates[0]
    rows = data.all_predictions
    partial = replace(data, all_predictions=rows[rows["candidate"] != first])
    assert [*data.candidates[1:], first] == partial.candidates


def test_curve_is_the_mean_over_seeds(data):
    """Two seeds give one point per size."""
    cells = data.cells
    cell = (cells["candidate"] == "t5-mini-docs") & (cells["size"] == 400)
    assert cell.sum() == 2
    assert cells.loc[cell, "bits_per_byte"].mean() == data.curve("t5-mini-docs")[400]


def test_runs_are_those_of_one_candidate_by_size(data):
    """Every cell once, at its size; of a candidate without cells there are none."""
    runs = data.runs("t5-mini-docs")
    cells = data.cells[data.cells["candidate"] == "t5-mini-docs"]
    assert list(cells["size"]) == list(runs.index)
    assert list(cells["bits_per_byte"]) == list(runs)
    assert data.runs("nobody").empty
    assert data.curve("nobody").empty


@pytest.mark.parametrize(("predictor", "expected"), [("stack", None), ("rectified", "rectified")])
def test_drawn_law(data, predictor, expected):
    """Only the predictor's own law is drawn: another's line would end elsewhere."""
    assert expected == replace(data, predictor=predictor).drawn_law


def test_no_law_is_drawn_where_none_was_fitted(data):
    """Without fits there are no lines of a law."""
    bare = replace(data, predictor="rectified", fits=data.fits.iloc[:0])
    assert bare.drawn_law is None
    assert bare.fit("t5-mini-docs") is None


def test_a_failed_fit_is_no_fit(data):
    """A row of NaN is what a law leaves that could not be fitted."""
    lawful = replace(data, predictor="rectified")
    assert lawful.fit("t5-mini-docs") is not None
    failed = data.fits.assign(B=np.nan)
    assert replace(lawful, fits=failed).fit("t5-mini-docs") is None


def test_predictions_and_scores_are_those_of_the_largest_budget(make):
    """Smaller budgets are for comparison; the answer is from everything that was paid for."""
    data = make(budgets=(400, 1600, 3200))
    assert data.budgets == [400, 1600, 3200]
    assert {3200} == set(data.predictions["budget"]) == set(data.scores["budget"])
    assert 3 * len(data.predictions) == len(data.all_predictions)
    assert len(data.ranking) == 6


def test_the_choice_is_the_lowest_cautious_prediction(data):
    """Here the ranking's own order is the cautious one, until the first is doubtful."""
    assert data.candidates[0] == data.choice
    rows = data.all_predictions
    unsure = rows["cautious"].where(rows["candidate"] != data.candidates[0], 99.0)
    assert data.candidates[1] == replace(data, all_predictions=rows.assign(cautious=unsure)).choice


def test_who_was_dropped_and_when(data, raced):
    """After which size; who stayed to the end is not among them."""
    *stayed, third, second, first = data.candidates
    dropped = raced(data).dropped
    assert {first: 400, second: 400, third: 1600} == dropped
    assert not set(stayed) & set(dropped)


def test_tables_that_are_not_there_are_empty_ones(data):
    """A frame without columns would break every look-up."""
    missing = dict.fromkeys(("fits", "cost", "findings", "decisions", "weights"), pd.DataFrame())
    bare = replace(data, **missing)
    assert data.candidates == bare.candidates
    assert bare.dropped == {}
    assert bare.drawn_law is None
    assert list(data.cost.columns) == list(bare.cost.columns)


def test_refuses_an_unknown_metric(data):
    """A loss without a unit cannot be reported."""
    with pytest.raises(ValueError, match="perplexity"):
        replace(data, metric="perplexity")


def test_refuses_a_default_predictor_without_predictions(data):
    """There is nothing to rank by."""
    with pytest.raises(ValueError, match="hrb"):
        replace(data, predictor="hrb")
