"""The rows of the tables that compare predictors."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lensllm.report import predictor_tables


def test_predictors_start_with_the_default_then_by_regret(data):
    """The answer first, then whose choice costs least."""
    lines = predictor_tables.predictors(data)
    assert [line.name for line in lines] == ["stack", "rectified", "sub_tuning"]
    best = predictor_tables.best_scores(lines)
    assert (best["rel_acc"], best["regret"], best["p_best_log_score"]) == (1.0, 0.0, 0.55)
    assert "coverage_80" not in best  # neither more nor less is better


def test_predictors_without_a_truth_have_no_scores(make):
    """They are still compared by what they would choose."""
    lines = predictor_tables.predictors(make(truth=False))
    assert lines[0].name == "stack"
    assert {} == lines[0].scores == lines[0].confidence == predictor_tables.best_scores(lines)


def test_clear_differences_are_told_from_others(data):
    """More is better for a correlation and worse for an error; an interval with 0 says neither."""
    default, rectified, sub_tuning = predictor_tables.predictors(data)
    assert {""} == {sure.verdict for sure in default.confidence.values()}
    clear = {score for score, sure in rectified.confidence.items() if sure.verdict}
    assert {"rmse_log"} == clear
    assert {"worse"} == {sure.verdict for sure in sub_tuning.confidence.values()}
    flipped = data.comparison.assign(
        difference_low=-data.comparison["difference_high"],
        difference_high=-data.comparison["difference_low"],
    )
    *_, better = predictor_tables.predictors(replace(data, comparison=flipped))
    assert {"better"} == {sure.verdict for sure in better.confidence.values()}


def test_intervals_are_those_of_the_comparison(data):
    """Three decimals, and words where a minus sign would be taken for a dash."""
    default, _, sub_tuning = predictor_tables.predictors(data)
    assert default.confidence["pearson"].interval == "0.845–1.095"
    assert sub_tuning.confidence["pearson"].interval == "−0.245 to 0.005"


@pytest.mark.parametrize(
    ("score", "best", "expected"),
    [(0.9412, 0.9411, True), (0.94, 0.941, False), (np.nan, np.nan, False), (0.9, np.nan, False)],
)
def test_equal_decimals_are_marked_alike(score, best, expected):
    """A reader sees three of them; what is missing leads nowhere."""
    assert expected is predictor_tables.leads(score, best)


def test_mixtures_at_the_largest_budget(make):
    """Weights of smaller budgets are not those of the answer."""
    data = make(budgets=(400, 3200))
    weights = data.weights.assign(weight=[0.9, 0.1, 0.36, 0.64])
    other = pd.DataFrame({"budget": 3200, "predictor": "a_blend", "part": ["ats"], "weight": [1.0]})
    data = replace(data, weights=pd.concat([other, weights]))
    found = predictor_tables.mixtures(data)
    assert list(found.items()) == [("stack", "36 % ats + 64 % hrb"), ("a_blend", "100 % ats")]


def test_skipped_says_at_which_budgets_unless_at_all(make):
    """One line per predictor and reason."""
    data = make(budgets=(400, 1600, 3200))
    early = pd.DataFrame(
        {"budget": [400], "predictor": "vanilla", "reason": "Three sizes, please."}
    )
    lines = predictor_tables.skipped(replace(data, skipped=pd.concat([data.skipped, early])))
    assert [(x.predictor, x.budgets) for x in lines] == [("lensllm", ()), ("vanilla", (400,))]


def test_every_budget_has_a_column_and_the_mean_one(make):
    """The default first, then by mean correlation; the best of each column is known."""
    data = make(budgets=(400, 1600, 3200))
    rel_acc, pearson = predictor_tables.by_budget(data)
    assert list(rel_acc.values.index) == ["stack", "rectified", "sub_tuning"]
    assert list(pearson.values.columns) == [400, 1600, 3200, "mean"]
    assert pearson.values.loc["rectified"].to_list() == pytest.approx([0.71, 0.81, 0.91, 0.81])
    assert pytest.approx(pearson.best) == {400: 0.77, 1600: 0.87, 3200: 0.97, "mean": 0.87}


def test_a_predictor_that_was_skipped_at_a_budget_has_no_mean(make):
    """A mean over the easier budgets would flatter it."""
    data = make(budgets=(400, 1600, 3200))
    scores = data.all_scores
    gone = (scores["predictor"] == "rectified") & (scores["budget"] == 400)
    _, pearson = predictor_tables.by_budget(replace(data, all_scores=scores[~gone]))
    assert list(pearson.values.index) == ["stack", "sub_tuning", "rectified"]
    assert pearson.values.loc["rectified"].isna().to_list() == [True, False, False, True]


@pytest.mark.parametrize("wanted", [{"budgets": (3200,)}, {"budgets": (400, 3200), "truth": False}])
def test_one_budget_or_no_truth_is_nothing_to_compare(make, wanted):
    """Then there is no such section."""
    assert predictor_tables.by_budget(make(**wanted)) == []
