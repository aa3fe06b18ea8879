"""Was it right?"""

from dataclasses import replace

import numpy as np

from lensllm.report.check import was_it_right


def _measured(data, losses):
    """``data`` with the default predictor's truths replaced, in ranking order."""
    truth = dict(zip(data.candidates, losses, strict=True))
    rows = data.all_predictions
    return replace(data, all_predictions=rows.assign(measured=rows["candidate"].map(truth)))


def test_right_when_the_choice_is_the_best(data):
    """The loss of the choice and of the next best are told."""
    check = was_it_right(_measured(data, [1.0, 1.2, 1.3, 1.4, 1.5, 1.6]))
    assert (check.outcome, check.answer) == ("right", "Yes.")
    assert "1.000 bits per byte, the next 1.200" in check.details[0]


def test_a_tie_with_the_best_is_right(data):
    """Nothing was lost by the choice."""
    assert was_it_right(_measured(data, [1.0, 1.0, 1.3, 1.4, 1.5, 1.6])).outcome == "right"


def test_wrong_says_what_it_costs(data):
    """Regret in loss and in percent of the best."""
    check = was_it_right(_measured(data, [1.1, 1.0, 1.3, 1.4, 1.5, 1.6]))
    assert (check.outcome, check.answer) == ("wrong", "No.")
    assert "opt-mini-prose reaches 1.000" in check.details[0]
    assert "0.100 bits per byte (10.0 %" in check.details[1]


def test_counts_the_intervals_that_hold(data):
    """Only intervals with a truth are counted."""
    rows = data.ranking
    truths = [*rows["predicted"][:4], 99.0, np.nan]
    assert "4 of 5 measured losses" in " ".join(was_it_right(_measured(data, truths)).details)


def test_open_without_a_truth(make):
    """Nothing is claimed that was not measured."""
    check = was_it_right(make(truth=False))
    assert (check.outcome, check.answer) == ("open", "Not known.")


def test_open_when_only_others_were_measured(data):
    """The chosen model itself is what has to be measured."""
    check = was_it_right(_measured(data, [np.nan, 1.0, 1.3, 1.4, 1.5, 1.6]))
    assert check.outcome == "open"
    assert "opt-mini-prose is best" in check.details[0]


def test_one_candidate_alone(make):
    """There is no next best to name."""
    check = was_it_right(make([("only", 10**6)]))
    assert check.outcome == "right"
    assert "next" not in check.details[0]


def test_the_choice_is_judged_not_the_lowest_prediction(data):
    """A risk-averse choice may be right where the first of the ranking was wrong."""
    rows = data.all_predictions
    unsure = rows["cautious"].where(rows["candidate"] != data.candidates[0], 99.0)
    careful = replace(data, all_predictions=rows.assign(cautious=unsure))
    check = was_it_right(_measured(careful, [1.1, 1.0, 1.3, 1.4, 1.5, 1.6]))
    assert (check.outcome, check.answer) == ("right", "Yes.")
    assert "opt-mini-prose, chosen" in check.details[0]
    expected = "qwen3-mini-mix, predicted lower but less surely, reaches 1.100."
    assert expected == check.details[1]
