"""Points of a grid beside each other, against what can be counted by hand."""

import json
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from lensllm.selection.ablation import Ablation, Outcome, Point, alone, compare, verdict
from lensllm.selection.transitions import Transitions
from lensllm.store.schemas import schema

NAMES = ("a", "b", "c", "d")
OWN = {"law.tau": 5.0, "finetune.batch_size": 16}
NAN, INF = math.nan, math.inf


def transitions(sizes: list[float], high: float = 1600) -> Transitions:
    names = list(NAMES[: len(sizes)])
    source = pd.Series(
        [repr((name, size)).encode() for name, size in zip(names, sizes, strict=True)]
    )
    return Transitions(
        pd.Series(sizes, names, dtype=float),
        pd.Series(100.0, names),
        pd.Series(float(high), names),
        pd.Series(list(source), names),
    )


def said(
    predicted: list[float],
    measured: list[float] | None = None,
    transition: list[float] | None = None,
    ats: list[float] | None = None,
    cautious: list[float] | None = None,
) -> Outcome:
    """What was predicted of a, b, …; NaN of those that stand last without a prediction."""
    losses = pd.Series(predicted, list(NAMES[: len(predicted)]), dtype=float)
    rows = pd.DataFrame(
        {
            "candidate": losses.index,
            "rank": losses.rank(na_option="bottom", method="first").astype(int),
            "predicted": losses,
            "cautious": losses if cautious is None else cautious,
            "p_best": 1 / len(losses),
            "measured": losses * NAN if measured is None else measured,
        }
    )
    return Outcome(
        predictor="stack",
        smallest=100,
        budget=800,
        target=1600,
        predictions=rows.sort_values("rank").reset_index(drop=True),
        transition=transitions(transition or [200.0] * len(losses)),
        ats=transitions(ats or [200.0] * len(losses), high=400),
    )


def settings(**moved: float) -> dict[str, float]:
    return OWN | {{"tau": "law.tau", "size": "finetune.batch_size"}[k]: v for k, v in moved.items()}


@pytest.fixture(name="four")
def _four() -> Ablation:
    """The reference, one more τ, two more batch sizes, the second of which failed, and a corner."""
    return compare(
        [
            Point(settings(), said([1, 2, 3, 4], [1.1, 2.1, 3.1, 4.1], [200, 400, 800, NAN])),
            Point(settings(tau=3), said([2, 1, 3, 4], [1.1, 2.1, 3.1, 4.1], [200, 400, 800, NAN])),
            Point(settings(size=8), said([1, 2, 4, 3], [2, 1, 4, 3], [400, 3200, 800, 50])),
            Point(settings(size=4), None, "out of memory"),
            Point(settings(tau=3, size=8), said([4, 3, 2, 1], [4, 3, 2, 1])),
        ]
    )


def test_the_tables_follow_their_schemas(four: Ablation):
    for name, rows in vars(four).items():
        wanted = schema(f"ablation/{name}")
        assert list(rows.columns) == wanted.names
        assert len(pa.Table.from_pandas(rows, schema=wanted, preserve_index=False)) == len(rows)


def test_a_point_is_scored_against_its_own_truth(four: Ablation):
    rows = four.points
    assert list(rows["reference"]) == [True, False, False, False, False]
    assert list(rows["choice"]) == ["a", "b", "a", "", "d"]
    np.testing.assert_allclose(rows["regret"], [0, 1, 1, NAN, 0])
    np.testing.assert_allclose(rows["pearson"][[0, 4]], 1)
    assert rows["pearson"][1] == pytest.approx(np.corrcoef([2, 1, 3, 4], [1, 2, 3, 4])[0, 1])
    logs = np.log(np.array([1, 2, 4, 3]) / [2, 1, 4, 3])
    assert rows["rmse_log"][2] == pytest.approx(np.sqrt(np.mean(logs**2)))


def test_orders_are_compared_with_the_references_and_the_truths_among_themselves(four: Ablation):
    """One exchange of neighbours among four is one discordant pair of six."""
    np.testing.assert_allclose(four.points["kendall"], [1, 2 / 3, 2 / 3, NAN, -1])
    np.testing.assert_allclose(four.points["truth_kendall"], [1, 1, 1 / 3, NAN, -1])


def test_a_failed_point_says_why_and_nothing_else(four: Ablation):
    row = four.points.iloc[3]
    assert (row["failed"], json.loads(row["settings"])) == ("out of memory", settings(size=4))
    numbers = four.points.drop(columns=["point", "reference"]).select_dtypes("number").iloc[3]
    assert (numbers.isna() | (numbers == 0)).all()
    assert set(four.candidates["point"]) == {0, 1, 2, 4}


def test_a_median_transition_is_of_what_can_be_seen(four: Ablation):
    """3,200 lies beyond the target and 50 before the smallest size; the fourth is unknown at 0."""
    np.testing.assert_allclose(four.points["transition"], [400, 400, 600, NAN, 200])
    assert list(four.points["transition_seen"]) == [3, 3, 2, 0, 4]
    rows = four.candidates.set_index(["point", "candidate"])
    assert [rows["transition_side"][2, name] for name in NAMES] == [
        "seen", "beyond", "seen", "before",
    ]  # fmt: skip
    assert rows["transition"][2, "b"] == 3200
    assert rows["transition_side"][0, "d"] == "unknown"


def test_candidates_stand_in_the_order_of_each_ranking(four: Ablation):
    by_point = four.candidates.groupby("point")["candidate"].apply(list)
    assert by_point[1] == ["b", "a", "c", "d"]
    assert by_point[4] == ["d", "c", "b", "a"]


def test_a_key_is_told_by_the_points_that_move_it_alone(four: Ablation):
    tau, size = four.keys.to_dict("records")
    assert (tau["key"], tau["reference"], tau["values"], tau["points"]) == (
        "law.tau",
        "5.0",
        "[3]",
        1,
    )
    assert (size["reference"], size["values"], size["points"]) == ("16", "[8]", 1)
    assert tau["kendall_low"] == pytest.approx(2 / 3)
    assert (tau["truth_kendall_low"], tau["choice_changes"], tau["regret_high"]) == (1, 1, 1)
    assert size["truth_kendall_low"] == pytest.approx(1 / 3)
    assert (size["choice_changes"], size["regret_high"]) == (0, 1)
    np.testing.assert_allclose(
        [tau["pearson_low"], tau["pearson_high"]], [four.points["pearson"][1], 1]
    )


def test_a_transitions_move_is_the_median_over_candidates_and_at_least_what_can_be_seen(
    four: Ablation,
):
    """Batch size 8: a moved one doubling, b two and beyond the target, c not."""
    tau, size = four.keys.to_dict("records")
    assert (tau["transition_move_low"], tau["transition_move_high"]) == (0, 0)
    assert (size["transition_move_low"], size["transition_move_high"]) == (1, 1)


def test_where_the_ends_hide_the_median_only_a_least_move_is_known():
    before, after = [200.0, 400.0, 800.0], [50.0, 30.0, 800.0]
    found = compare(
        [
            Point(settings(), said([1, 2, 3], transition=before)),
            Point(settings(tau=3), said([1, 2, 3], transition=after)),
        ]
    ).keys.iloc[0]
    assert (found["transition_move_low"], found["transition_move_high"]) == (1, INF)


def test_the_largest_move_of_several_points_counts():
    sizes = {5: 200.0, 3: 400.0, 8: 800.0, 9: 100.1}
    points = [
        Point(settings(tau=tau), said([1, 2], transition=[size] * 2)) for tau, size in sizes.items()
    ]
    found = compare(points).keys.iloc[0]
    assert json.loads(found["values"]) == [3, 8, 9]
    assert (found["transition_move_low"], found["transition_move_high"]) == (2, 2)
    assert (found["ats_move_low"], found["ats_move_high"]) == (0, 0)


def test_without_a_truth_only_orders_are_compared():
    found = compare([Point(settings(), said([1, 2])), Point(settings(tau=3), said([2, 1]))])
    assert found.points[["pearson", "rmse_log", "regret", "truth_kendall"]].isna().all(axis=None)
    assert list(found.points["kendall"]) == [1, -1]
    assert math.isnan(found.keys["pearson_low"][0])


def test_the_choice_is_the_cautious_one_and_so_is_its_regret():
    careful = said([1, 2], [5, 4], cautious=[3, 2])
    found = compare([Point(settings(), careful)]).points.iloc[0]
    assert (found["choice"], found["regret"]) == ("b", 0)


def test_candidates_without_a_prediction_have_no_rank():
    one, other = said([1, 2, 3, NAN]), said([NAN, 2, 1, 3])
    found = compare([Point(settings(), one), Point(settings(tau=3), other)])
    ranks = found.candidates.set_index(["point", "candidate"])["rank"]
    assert np.isnan(ranks[0, "d"])
    assert np.isnan(ranks[1, "a"])
    assert found.points["kendall"][1] == -1  # b before c there, c before b here


def test_a_candidate_that_is_missing_at_a_point_is_left_out_there():
    found = compare([Point(settings(), said([1, 2, 3])), Point(settings(tau=3), said([1, 2]))])
    assert found.points["kendall"][1] == 1
    assert list(found.candidates["point"]) == [0, 0, 0, 1, 1]


def test_without_the_reference_nothing_is_compared():
    found = compare([Point(settings(), None, "no such file"), Point(settings(tau=3), said([1, 2]))])
    assert found.points["kendall"].isna().all()
    key = found.keys.iloc[0]
    assert (key["points"], key["choice_changes"]) == (1, 0)
    assert math.isnan(key["transition_move_low"])
    assert "nothing to compare with" in verdict(found.points)


@given(st.permutations(NAMES), st.permutations(NAMES))
def test_agreement_is_kendalls(one, other):
    orders = [[float(order.index(name)) for name in NAMES] for order in (one, other)]
    found = compare([Point(settings(), said(orders[0])), Point(settings(tau=3), said(orders[1]))])
    assert found.points["kendall"][1] == pytest.approx(kendalltau(*orders).statistic)


def test_alone():
    points = [settings(), settings(tau=3), settings(size=8), settings(tau=3, size=8)]
    assert alone(points, "law.tau") == [0, 1]
    assert alone(points, "finetune.batch_size") == [0, 2]


def test_the_verdict_names_choices_the_farthest_order_and_the_costliest_choice(four: Ablation):
    assert verdict(four.points) == (
        "a is the choice at 2 of 4 points, b at 1, d at 1. "
        "The order agrees least with the reference's at law.tau=3, finetune.batch_size=8 "
        "(Kendall correlation -1.00; of the measured orders -1.00). "
        "The largest regret of a choice is 1.0000, at law.tau=3. 1 more point failed."
    )


def test_the_verdict_of_a_robust_ranking():
    points = [Point(settings(tau=tau), said([1, 2], [3, 4])) for tau in (5, 3, 8)]
    assert verdict(compare(points).points) == (
        "a is the choice at all 3 points. The order of the candidates is the same everywhere. "
        "Where the target was measured, the choice was always the best."
    )


def test_the_verdict_names_a_few_other_choices_only():
    orders = [np.roll([1.0, 2.0, 3.0, 4.0], shift) for shift in (0, 1, 2, 3)]
    names = "abcdefgh"
    points = []
    for tau, first in enumerate(names):
        rows = said(list(orders[0]))
        renamed = rows.predictions["candidate"].replace({"a": first, first: "a"})
        points.append(
            Point(
                settings(tau=tau),
                Outcome(
                    **(vars(rows) | {"predictions": rows.predictions.assign(candidate=renamed)})
                ),
            )
        )
    assert (
        "a is the choice at 1 of 8 points, b at 1, c at 1, d at 1, 4 others elsewhere."
        in verdict(compare(points).points)
    )


def test_the_verdict_when_all_others_failed():
    found = compare([Point(settings(), said([1, 2])), Point(settings(tau=3), None, "killed")])
    assert "Every other point failed" in verdict(found.points)
