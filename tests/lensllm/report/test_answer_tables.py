"""The rows and sentences of the page's answer."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lensllm.report import answer_tables, cost_tables, diagnostic_tables
from lensllm.report.answer_tables import findings, was_it_right


def test_ranking_rows_repeat_the_predictions(data):
    """Nothing is recomputed on the way to the page."""
    rows = answer_tables.ranking(data)
    assert list(data.ranking["predicted"]) == [row.predicted for row in rows]
    assert list(data.ranking["measured_rank"]) == [row.measured_rank for row in rows]
    assert rows[0].parameters == 1_210_000
    first = data.ranking.iloc[0]
    expected = first["predicted"] / first["measured"] - 1
    assert expected == pytest.approx(rows[0].relative_error)


def test_bars_lie_on_one_scale(data):
    """Equal losses stand at equal places, whoever predicted them."""
    low, high = answer_tables.scale(data)
    for row in answer_tables.ranking(data):
        place = 100 * (row.predicted - low) / (high - low)
        assert place == pytest.approx(row.bar.predicted, abs=0.01)
        assert 0 <= row.bar.low <= row.bar.predicted <= row.bar.high <= 100


def test_one_endless_interval_does_not_set_the_scale(data):
    """It runs to the edge of a scale that still tells the candidates apart."""
    wide = data.all_predictions.copy()
    wide.loc[wide["candidate"] == data.candidates[0], "high"] = 1e6
    changed = replace(data, all_predictions=wide)
    assert answer_tables.ranking(changed)[0].bar.high == 100
    assert answer_tables.scale(changed)[1] < 4


def test_missing_numbers_draw_nothing(make):
    """No truth, no mark; no interval, no bar."""
    data = make(truth=False)
    endless = data.all_predictions.assign(low=np.nan, high=np.nan)
    bar = answer_tables.ranking(replace(data, all_predictions=endless))[0].bar
    assert (bar.low, bar.high, bar.measured) == (None, None, None)
    assert bar.predicted is not None


def test_phase_says_where_the_budget_stands(data):
    """D* beyond the budget: the power phase has not been seen."""
    drawn, other = diagnostic_tables.laws(data)
    assert {"rectified"} == {row.law for row in drawn}
    assert {"vanilla"} == {row.law for row in other}
    for row in drawn:
        expected = "power" if row.fit["transition_size"] <= data.budget else "pre-power"
        assert expected == row.phase
    assert {"power", "pre-power"} == {row.phase for row in drawn}


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
    lines = cost_tables.cost(data)
    paid = data.cell_costs[data.cell_costs["size"] <= data.budget]
    total = cost_tables.total(lines)
    assert paid["seconds"].sum() == pytest.approx(total.seconds)
    assert data.cost["spent_flops"].sum() == pytest.approx(total.spent_flops)
    assert total.spent_flops / total.full_flops == total.share


def test_cost_without_machine_records(data):
    """Tables that others measured have no seconds."""
    total = cost_tables.total(cost_tables.cost(replace(data, cell_costs=data.cell_costs.iloc[:0])))
    assert math.isnan(total.seconds)
    assert math.isnan(total.peak_memory_bytes)
    assert total.spent_flops > 0


def test_unknown_parameters_are_nan(data, replayed):
    """A table of losses need not say how large its models are."""
    assert all(math.isnan(count) for count in replayed(data).parameters.values())
    assert {math.nan} != set(data.parameters.values())


def test_the_choice_is_marked_wherever_it_ranks(data):
    """Exactly one row is the choice."""
    rows = data.all_predictions
    unsure = rows["cautious"].where(rows["candidate"] != data.candidates[0], 99.0)
    careful = answer_tables.ranking(replace(data, all_predictions=rows.assign(cautious=unsure)))
    assert [row.rank for row in careful if row.chosen] == [2]
    assert [row.rank for row in answer_tables.ranking(data) if row.chosen] == [1]


def test_dropped_by_intent_is_not_incomplete(data, raced):
    """A policy gave these candidates no more; a failed cell is another matter."""
    data = raced(data)
    assert answer_tables.incomplete(data) == []
    lost = (data.cells["candidate"] == data.candidates[0]) & (data.cells["size"] == 3200)
    expected = [f"{data.candidates[0]} (6 of 7 sizes)"]
    assert expected == answer_tables.incomplete(replace(data, cells=data.cells[~lost]))


def test_unknown_cost_has_no_lines(data, replayed):
    """Nothing is known of what others spent."""
    assert cost_tables.cost(replayed(data)) == []


@pytest.mark.parametrize(
    ("predictor", "expected"), [("stack", "rectified"), ("vanilla", "vanilla")]
)
def test_one_law_is_shown_and_the_others_folded(data, predictor, expected):
    """The predictor's own; behind a predictor that is no law, the rectified one."""
    rows = data.all_predictions.assign(predictor=predictor)
    first, others = diagnostic_tables.laws(replace(data, predictor=predictor, all_predictions=rows))
    assert {expected} == {row.law for row in first}
    assert {"rectified", "vanilla"} - {expected} == {row.law for row in others}


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
    (finding,) = _found(data, "a is bad; mend it.", "b is bad; mend it.")
    assert (finding.code, finding.title) == ("LENS101", "A title")
    assert [m.before for m in finding.messages] == ["a is bad; mend it.", "b is bad; mend it."]


def test_a_long_list_of_names_is_folded_and_nothing_is_lost(data):
    """Claim, number and advice stay in sight."""
    names = [f"owner/model-{i} (0 of 4, D* 1,234)" for i in range(20)]
    text = f"Too few sizes: 20 candidates, {', '.join(names)}; raise the budget, or not."
    ((message,),) = [finding.messages for finding in _found(data, text)]
    assert message.before == "Too few sizes: 20 candidates"
    assert message.after == "raise the budget, or not."
    assert text == f"{message.before}, {message.folded}; {message.after}"


def test_a_long_message_of_another_form_is_shown_whole(data):
    """Only what reads as a list of names is cut."""
    text = "word " * 100
    ((message,),) = [finding.messages for finding in _found(data, text)]
    assert (message.before, message.folded) == (text, "")


def test_no_findings(data):
    """All checks passed."""
    assert _found(data) == []


def test_rounds_count_who_was_in_and_who_went_out(data, raced):
    """Six, then the four that were left."""
    rounds = [(r.budget, r.racing, r.dropped) for r in answer_tables.rounds(raced(data))]
    assert rounds == [(400, 6, 2), (1600, 4, 1)]


def test_racers_stand_in_the_order_in_which_they_lasted(data, raced):
    """Those that stayed first, by their last chance; then whoever was dropped last."""
    racers = answer_tables.racers(raced(data))
    assert data.candidates == [racer.candidate for racer in racers]
    assert [racer.dropped for racer in racers] == [None, None, None, 1600, 400, 400]
    assert racers[0].chances == (0.5, 0.5)
    assert racers[0].reason == ""
    assert racers[-1].reason == "P(best) is 1.2%"
    assert pytest.approx(0.5 / 6) == racers[-1].chances[0]
    assert math.isnan(racers[-1].chances[1])


def test_why_it_stopped(data, raced):
    """Nothing is said of a sweep that ended with its largest size."""
    assert "" == answer_tables.stop(raced(data)) == answer_tables.stop(data)
    assert answer_tables.stop(raced(data, stop="one is left")) == "one is left"


def test_a_sweep_without_decisions_has_no_rows(data):
    """Every candidate got every size."""
    assert [] == answer_tables.rounds(data) == answer_tables.racers(data)


def test_saved_is_what_was_not_spent(data):
    """Of the examples of fine-tuning every candidate on the target; unknown without a simulation."""
    assert math.isnan(data.saved_examples)
    examples = pd.DataFrame({"spent_examples": [250.0], "full_examples": [1000.0]})
    assert replace(data, simulated_cost=examples).saved_examples == 0.75
