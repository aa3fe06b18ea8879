"""The rows and sentences of the page's answer."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lensllm.report import answer_tables, diagnostic_tables
from lensllm.report.answer_tables import findings, was_it_right


def test_ranking_rows_repeat_the_predictions(data):
    """Nothing is recomputed on the way to the page."""
    rows = answer_tables.ranking(data)
    assert list(data.ranking["predicted"]) == [row["predicted"] for row in rows]
    assert list(data.ranking["measured_rank"]) == [row["measured_rank"] for row in rows]
    assert rows[0]["parameters"] == 1_210_000
    first = data.ranking.iloc[0]
    expected = first["predicted"] / first["measured"] - 1
    assert expected == pytest.approx(rows[0]["relative_error"])


def test_bars_lie_on_one_scale(data):
    """Equal losses stand at equal places, whoever predicted them."""
    low, high = answer_tables.scale(data)
    for row in answer_tables.ranking(data):
        place = 100 * (row["predicted"] - low) / (high - low)
        assert place == pytest.approx(row["predicted_place"], abs=0.01)
        assert 0 <= row["low_place"] <= row["predicted_place"] <= row["high_place"] <= 100


def test_one_endless_interval_does_not_set_the_scale(data):
    """It runs to the edge of a scale that still tells the candidates apart."""
    wide = data.all_predictions.copy()
    wide.loc[wide["candidate"] == data.candidates[0], "high"] = 1e6
    changed = replace(data, all_predictions=wide)
    assert answer_tables.ranking(changed)[0]["high_place"] == 100
    assert answer_tables.scale(changed)[1] < 4


def test_missing_numbers_draw_nothing(make):
    """No truth, no mark; no interval, no bar."""
    data = make(truth=False)
    endless = data.all_predictions.assign(low=np.nan, high=np.nan)
    row = answer_tables.ranking(replace(data, all_predictions=endless))[0]
    assert all(math.isnan(row[f"{mark}_place"]) for mark in ("low", "high", "measured"))
    assert math.isfinite(row["predicted_place"])


def test_phase_says_where_the_budget_stands(data):
    """D* beyond the budget: the power phase has not been seen."""
    drawn, other = diagnostic_tables.laws(data)
    assert {"rectified"} == {row["law"] for row in drawn}
    assert {"vanilla"} == {row["law"] for row in other}
    for row in drawn:
        expected = "power" if row["transition_size"] <= data.budget else "pre-power"
        assert expected == row["phase"]
    assert {"power", "pre-power"} == {row["phase"] for row in drawn}


def test_incomplete_counts_sizes_up_to_the_budget(data):
    """A candidate that lost cells is named with what it has."""
    assert answer_tables.incomplete(data) == []
    cells = data.cells
    lost = (cells["candidate"] == "t5-mini-docs") & cells["size"].isin([1600, 3200])
    assert answer_tables.incomplete(replace(data, cells=cells[~lost])) == [
        "t5-mini-docs (5 of 7 sizes)"
    ]


def test_cost_counts_only_what_the_decision_needed(data):
    """Seconds of cells beyond the budget are the price of the truth, not of the ranking."""
    total = diagnostic_tables.cost(data)[-1]
    paid = data.cell_costs[data.cell_costs["size"] <= data.budget]
    assert paid["seconds"].sum() == pytest.approx(total["seconds"])
    assert data.cost["spent_flops"].sum() == pytest.approx(total["spent_flops"])
    assert total["spent_flops"] / total["full_flops"] == total["share"]


def test_cost_without_machine_records(data):
    """Tables that others measured have no seconds."""
    total = diagnostic_tables.cost(replace(data, cell_costs=data.cell_costs.iloc[:0]))[-1]
    assert math.isnan(total["seconds"])
    assert math.isnan(total["peak_memory_bytes"])
    assert total["spent_flops"] > 0


def test_unknown_parameters_are_nan(data, replayed):
    """A table of losses need not say how large its models are."""
    assert all(math.isnan(count) for count in replayed(data).parameters.values())
    assert {math.nan} != set(data.parameters.values())


def test_the_choice_is_marked_wherever_it_ranks(data):
    """Exactly one row is the choice."""
    rows = data.all_predictions
    unsure = rows["cautious"].where(rows["candidate"] != data.candidates[0], 99.0)
    careful = answer_tables.ranking(replace(data, all_predictions=rows.assign(cautious=unsure)))
    assert [row["rank"] for row in careful if row["chosen"]] == [2]
    assert [row["rank"] for row in answer_tables.ranking(data) if row["chosen"]] == [1]


def test_dropped_by_intent_is_not_incomplete(data, raced):
    """A policy gave these candidates no more; a failed cell is another matter."""
    data = raced(data)
    assert answer_tables.incomplete(data) == []
    lost = (data.cells["candidate"] == data.candidates[0]) & (data.cells["size"] == 3200)
    expected = [f"{data.candidates[0]} (6 of 7 sizes)"]
    assert expected == answer_tables.incomplete(replace(data, cells=data.cells[~lost]))


def test_unknown_cost_has_no_lines(data, replayed):
    """Nothing is known of what others spent."""
    assert diagnostic_tables.cost(replayed(data)) == []


@pytest.mark.parametrize(
    ("predictor", "expected"), [("stack", "rectified"), ("vanilla", "vanilla")]
)
def test_one_law_is_shown_and_the_others_folded(data, predictor, expected):
    """The predictor's own; behind a predictor that is no law, the rectified one."""
    rows = data.all_predictions.assign(predictor=predictor)
    first, others = diagnostic_tables.laws(replace(data, predictor=predictor, all_predictions=rows))
    assert {expected} == {row["law"] for row in first}
    assert {"rectified", "vanilla"} - {expected} == {row["law"] for row in others}


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


def _found(data, *messages, code="LENS101"):
    rows = [
        {"code": code, "title": "A title", "candidate": "", "message": text} for text in messages
    ]
    return findings(replace(data, findings=pd.DataFrame(rows, columns=data.findings.columns)))


def test_findings_of_one_check_stand_together(data):
    """Its title is said once."""
    ((code, title, messages),) = _found(data, "a is bad; mend it.", "b is bad; mend it.")
    assert (code, title) == ("LENS101", "A title")
    assert [m.before for m in messages] == ["a is bad; mend it.", "b is bad; mend it."]


def test_a_long_list_of_names_is_folded_and_nothing_is_lost(data):
    """Claim, number and advice stay in sight."""
    names = [f"owner/model-{i} (0 of 4, D* 1,234)" for i in range(20)]
    text = f"Too few sizes: 20 candidates, {', '.join(names)}; raise the budget, or not."
    ((_, _, (message,)),) = _found(data, text)
    assert message.before == "Too few sizes: 20 candidates"
    assert message.after == "raise the budget, or not."
    assert text == f"{message.before}, {message.folded}; {message.after}"


def test_a_long_message_of_another_form_is_shown_whole(data):
    """Only what reads as a list of names is cut."""
    text = "word " * 100
    ((_, _, (message,)),) = _found(data, text)
    assert (message.before, message.folded) == (text, "")


def test_no_findings(data):
    """All checks passed."""
    assert _found(data) == []


def test_rounds_count_who_was_in_and_who_went_out(data, raced):
    """Six, then the four that were left."""
    rounds = [tuple(row.values()) for row in answer_tables.rounds(raced(data))]
    assert rounds == [(400, 6, 2), (1600, 4, 1)]


def test_racers_stand_in_the_order_in_which_they_lasted(data, raced):
    """Those that stayed first, by their last chance; then whoever was dropped last."""
    racers = answer_tables.racers(raced(data))
    assert data.candidates == [racer["candidate"] for racer in racers]
    assert [racer["dropped"] for racer in racers] == [None, None, None, 1600, 400, 400]
    assert racers[0]["chances"] == [0.5, 0.5]
    assert racers[0]["reason"] == ""
    assert racers[-1]["reason"] == "P(best) is 1.2%"
    assert pytest.approx(0.5 / 6) == racers[-1]["chances"][0]
    assert math.isnan(racers[-1]["chances"][1])


def test_a_sweep_without_decisions_has_no_rows(data):
    """Every candidate got every size."""
    assert [] == answer_tables.rounds(data) == answer_tables.racers(data)


def test_saved_is_what_was_not_spent(data):
    """Of the examples of fine-tuning every candidate on the target; unknown without a simulation."""
    assert math.isnan(data.saved_examples)
    examples = pd.DataFrame({"spent_examples": [250.0], "full_examples": [1000.0]})
    assert replace(data, simulated_cost=examples).saved_examples == 0.75


def test_predictors_start_with_the_default_then_by_regret(data):
    """The answer first, then whose choice costs least."""
    lines = answer_tables.predictors(data)
    assert [line["predictor"] for line in lines] == ["stack", "rectified", "sub_tuning"]
    best = answer_tables.best_scores(data)
    assert (best["rel_acc"], best["regret"], best["p_best_log_score"]) == (1.0, 0.0, 0.55)
    assert "coverage_80" not in best  # neither more nor less is better


def test_predictors_without_a_truth_have_no_scores(make):
    """They are still compared by what they would choose."""
    data = make(truth=False)
    first = answer_tables.predictors(data)[0]
    assert first["predictor"] == "stack"
    assert {} == first["scores"] == first["confidence"]
    assert all(math.isnan(best) for best in answer_tables.best_scores(data).values())


def test_clear_differences_are_told_from_others(data):
    """More is better for a correlation and worse for an error; an interval with 0 says neither."""
    default, rectified, sub_tuning = answer_tables.predictors(data)
    assert {""} == {sure["verdict"] for sure in default["confidence"].values()}
    clear = {score for score, sure in rectified["confidence"].items() if sure["verdict"]}
    assert {"rmse_log"} == clear
    assert {"worse"} == {sure["verdict"] for sure in sub_tuning["confidence"].values()}
    flipped = data.comparison.assign(
        difference_low=-data.comparison["difference_high"],
        difference_high=-data.comparison["difference_low"],
    )
    *_, better = answer_tables.predictors(replace(data, comparison=flipped))
    assert {"better"} == {sure["verdict"] for sure in better["confidence"].values()}


@pytest.mark.parametrize(
    ("score", "best", "expected"),
    [(0.9412, 0.9411, True), (0.94, 0.941, False), (np.nan, np.nan, False), (0.9, np.nan, False)],
)
def test_equal_decimals_are_marked_alike(score, best, expected):
    """A reader sees three of them; what is missing leads nowhere."""
    assert expected is answer_tables.leads(score, best)


def test_mixtures_at_the_largest_budget(make):
    """Weights of smaller budgets are not those of the answer."""
    data = make(budgets=(400, 3200))
    weights = data.weights.assign(weight=[0.9, 0.1, 0.36, 0.64])
    other = pd.DataFrame({"budget": 3200, "predictor": "a_blend", "part": ["ats"], "weight": [1.0]})
    data = replace(data, weights=pd.concat([other, weights]))
    found = answer_tables.mixtures(data)
    assert list(found.items()) == [("stack", "36 % ats + 64 % hrb"), ("a_blend", "100 % ats")]


def test_skipped_says_at_which_budgets_unless_at_all(make):
    """One line per predictor and reason."""
    data = make(budgets=(400, 1600, 3200))
    early = pd.DataFrame(
        {"budget": [400], "predictor": "vanilla", "reason": "Three sizes, please."}
    )
    lines = answer_tables.skipped(replace(data, skipped=pd.concat([data.skipped, early])))
    assert [(name, budgets) for name, _, budgets in lines] == [("lensllm", []), ("vanilla", [400])]


def test_every_budget_has_a_column_and_the_mean_one(make):
    """The default first, then by mean correlation; the best of each column is known."""
    data = make(budgets=(400, 1600, 3200))
    rel_acc, pearson = answer_tables.by_budget(data)
    assert list(rel_acc.values.index) == ["stack", "rectified", "sub_tuning"]
    assert list(pearson.values.columns) == [400, 1600, 3200, "mean"]
    assert pearson.values.loc["rectified"].to_list() == pytest.approx([0.71, 0.81, 0.91, 0.81])
    assert pytest.approx(pearson.best) == {400: 0.77, 1600: 0.87, 3200: 0.97, "mean": 0.87}


def test_a_predictor_that_was_skipped_at_a_budget_has_no_mean(make):
    """A mean over the easier budgets would flatter it."""
    data = make(budgets=(400, 1600, 3200))
    scores = data.all_scores
    gone = (scores["predictor"] == "rectified") & (scores["budget"] == 400)
    _, pearson = answer_tables.by_budget(replace(data, all_scores=scores[~gone]))
    assert list(pearson.values.index) == ["stack", "sub_tuning", "rectified"]
    assert pearson.values.loc["rectified"].isna().to_list() == [True, False, False, True]


@pytest.mark.parametrize("wanted", [{"budgets": (3200,)}, {"budgets": (400, 3200), "truth": False}])
def test_one_budget_or_no_truth_is_nothing_to_compare(make, wanted):
    """Then there is no such section."""
    assert answer_tables.by_budget(make(**wanted)) == []
