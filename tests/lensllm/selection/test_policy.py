from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensllm.curves import tables
from lensllm.curves.curve import Curves, curves_from_cells
from lensllm.predictors import PREDICTORS
from lensllm.selection.answers import Question
from lensllm.selection.policy import decide, first_round, no_decisions, simulate
from lensllm.selection.ranking import choice, rank
from lensllm.store.schemas import schema

NAN = float("nan")
SIZES = 100.0 * 2.0 ** np.arange(8)  # the first round ends with 1,600, two sizes are left
TARGET = 102_400.0


def curves(level, slope=0.1, noise=0.004, seed=0):
    """Noisy power laws of these losses at the target, "c0", "c1", … in that order."""
    level = np.asarray(level, dtype=float)
    draw = np.random.default_rng(seed)
    exact = level[:, None] * (SIZES / TARGET) ** -np.broadcast_to(slope, level.shape)[:, None]
    noisy = exact * np.exp(noise * draw.standard_normal(exact.shape))
    return Curves(tuple(f"c{i}" for i in range(len(level))), SIZES, noisy[:, :, None])


def question(reference="ats", seed=0, draws=1000):
    return Question(TARGET, (SIZES[-1],), (reference,), reference, seed, draws)


def predictions(seen, asked):
    """What the ranking says of the curves: another way to the numbers that decide."""
    rows = rank(seen, replace(asked, budgets=(seen.sizes[-1],)), None).predictions
    return choice(rows), rows.set_index("candidate").loc[list(seen.candidates)]


def dropped(decision):
    rows = decision.candidates
    return set(rows.loc[rows["dropped"] != "", "candidate"])


# --- the first round ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        ([100, 200, 400, 800, 1600, 3200], 5),
        ([4, 16, 64, 256], 3),
        ([4, 100, 1000, 10_000], 3),
        ([4, 8], 2),
        ([10, 15, 22, 33, 50, 75, 113, 161], 7),
    ],
)
def test_the_first_round_ends_with_sixteen_times_the_smallest_size(sizes, count):
    assert count == first_round(np.array(sizes, dtype=float))


@given(st.lists(st.integers(2, 10**6), min_size=1, max_size=12, unique=True).map(sorted))
def test_the_first_round_is_no_shorter_than_three_and_no_longer_than_needed(sizes):
    count = first_round(np.array(sizes, dtype=float))

    assert min(3, len(sizes)) <= count <= len(sizes)
    assert count <= 3 or sizes[count - 1] <= 16 * sizes[0]
    assert count == len(sizes) or sizes[count] > 16 * sizes[0]


# --- adaptive -------------------------------------------------------------------------------------

CLOSE, CLEAR = [2.0, 2.02, 2.2, 3.0], [2.0, 2.5, 3.0, 3.5]


@pytest.mark.parametrize("level", [CLOSE, CLEAR])
@pytest.mark.parametrize("reference", ["ats", "stack", "sub_tuning"])
def test_only_who_is_best_in_less_than_two_percent_is_dropped(level, reference):
    seen = curves(level).until(1600)
    decision = decide("adaptive", seen, no_decisions(), question(reference))
    chosen, expected = predictions(seen, question(reference))

    rows = decision.candidates.set_index("candidate")
    unlikely = set(expected.index[expected["p_best"] < 0.02])
    assert unlikely - {chosen} == dropped(decision)
    assert "c3" in unlikely
    for column in ("predicted", "p_best", "expected_regret"):
        np.testing.assert_array_equal(expected[column], rows[column])
    assert f"P(best) is {100 * rows.loc['c3', 'p_best']:.1f} %" == rows.loc["c3", "dropped"]
    assert {1600} == set(rows["budget"])


def test_the_choice_stays_even_if_so_many_are_alike_that_none_is_likely_the_best():
    seen = curves(np.full(80, 2.0), noise=1e-3).until(400)
    decision = decide("adaptive", seen, no_decisions(), question(draws=400))
    chosen, expected = predictions(seen, question(draws=400))

    assert expected.loc[chosen, "p_best"] < 0.02
    assert chosen in decision.kept


@pytest.mark.parametrize(
    ("level", "earlier", "stops"),
    [
        (CLOSE, [], False),
        (CLOSE[:2], [], False),
        (CLOSE[:2], [2.3], False),
        (CLOSE[:2], [4.0, 9.0], True),  # the race was over losses from 2 to 9
        (CLOSE[:2], [NAN, 9.0], True),
        (CLEAR, [], True),
    ],
)
def test_it_stops_when_the_regret_is_two_percent_of_the_range_of_all_predictions(
    level, earlier, stops
):
    seen = curves(level).until(1600)
    before = pd.DataFrame({"predicted": earlier, "candidate": "gone"}).reindex(
        columns=no_decisions().columns
    )
    decision = decide("adaptive", seen, before, question())

    chosen, expected = predictions(seen, question())
    known = [*expected["predicted"], *(loss for loss in earlier if not np.isnan(loss))]
    share = expected.loc[chosen, "expected_regret"] / (max(known) - min(known))
    assert stops == bool(share < 0.02)
    assert stops == decision.stop.startswith(f"the expected regret of {chosen}, ")
    assert stops == (f"is {100 * share:.1f} % of the range" in decision.stop)
    assert {decision.stop} == set(decision.candidates["stop"])


@pytest.mark.parametrize(("share", "stops"), [(0.0195, True), (0.0205, False)])
def test_two_percent_it_is(share, stops):
    seen = curves(CLOSE[:2]).until(1600)
    chosen, expected = predictions(seen, question())
    lowest, regret = expected["predicted"].min(), expected.loc[chosen, "expected_regret"]
    gone = no_decisions().reindex([0]).assign(predicted=lowest + regret / share)

    assert stops == bool(decide("adaptive", seen, gone, question()).stop)


def test_equal_predictions_have_no_range_and_do_not_stop_it():
    same = curves([2.0, 2.0], noise=0).until(1600)

    assert decide("adaptive", same, no_decisions(), question()).stop == ""


def test_one_candidate_that_is_left_ends_it():
    seen = curves([2.0, 2.6], noise=0.02).until(1600)
    decision = decide("adaptive", seen, no_decisions(), question())

    assert decision.kept == ("c0",)
    assert decision.stop != ""


# --- halving --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "kept"), [(2, 1), (3, 2), (4, 2), (5, 3), (8, 4)])
def test_halving_keeps_the_better_half_by_ats_the_larger_one_of_an_odd_number(count, kept):
    level = np.random.default_rng(count).permutation(2 + 0.1 * np.arange(count))
    seen = curves(level, slope=0.05 + 0.02 * level).until(1600)
    decision = decide("halving", seen, no_decisions(), question("sub_tuning"))

    ats = PREDICTORS["ats"].predict(seen, np.array([TARGET])).loss[:, 0]
    best = np.argsort(ats)[:kept]
    assert {f"c{i}" for i in best} == set(decision.kept)
    assert f"{count} of {count} by AtS" in set(decision.candidates["dropped"])
    assert ("one candidate is left" if kept == 1 else "") == decision.stop
    np.testing.assert_array_equal(ats, decision.candidates["predicted"])


def test_halving_drops_first_who_has_no_prediction():
    seen = curves([2.0, 2.5, 3.0]).until(1600)
    losses = seen.losses.copy()
    losses[0, 2:] = NAN

    decision = decide("halving", replace(seen, losses=losses), no_decisions(), question())

    assert decision.kept == ("c1", "c2")


# --- both -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["adaptive", "halving"])
def test_a_decision_follows_its_schema_and_from_the_cells_alone(policy):
    whole = curves(CLOSE)
    seen = whole.only(["c0", "c1", "c2"]).until(1600)
    later = whole.losses.copy()
    later[:, 5:] *= 7
    blind = replace(whole, losses=later).only(["c2", "c0", "c1"]).until(1600)
    one, again, shuffled = (
        decide(policy, given, no_decisions(), question("stack")).candidates
        for given in (seen, seen, blind)
    )

    pd.testing.assert_frame_equal(one, again)
    by_name = shuffled.set_index("candidate").loc[one["candidate"]].reset_index()
    pd.testing.assert_frame_equal(one, by_name[one.columns], rtol=1e-9)
    for rows in (one, no_decisions()):
        assert schema("sweep/decisions").names == list(rows.columns)
        table = pa.Table.from_pandas(rows, schema("sweep/decisions"), preserve_index=False)
        assert table.num_rows == len(rows)


# --- playing on a table ---------------------------------------------------------------------------


def test_a_simulation_buys_the_later_sizes_of_those_left_and_no_others():
    whole = curves([2.0, 2.2, 2.4, 2.6, 2.8])
    played = simulate("halving", whole, question())

    racing = played.decisions.groupby("budget")["candidate"].agg(list).to_dict()
    first = ["c0", "c1", "c2", "c3", "c4"]
    assert {1600: first, 3200: first[:3], 6400: first[:2]} == racing
    bought = [7, 7, 6, 5, 5]  # of 8 sizes: nobody has the last, for one was left before it
    known = np.isfinite(played.curves.losses[:, :, 0])
    np.testing.assert_array_equal(np.arange(7) < np.array(bought)[:, None], known)
    np.testing.assert_array_equal(whole.losses[:, :7][known], played.curves.losses[known])
    assert sum(SIZES[:count].sum() for count in bought) == played.examples


def test_a_simulation_takes_the_decisions_of_a_sweep():
    whole = curves([2.0, 2.02, 2.04, 2.06, 2.2, 3.0], noise=0.01)
    played = simulate("adaptive", whole, question("stack")).decisions

    racing, earlier = whole.candidates, no_decisions()
    for budget, rows in played.groupby("budget"):
        decision = decide("adaptive", whole.only(racing).until(budget), earlier, question("stack"))
        pd.testing.assert_frame_equal(decision.candidates, rows.reset_index(drop=True))
        racing, earlier = decision.kept, played[played["budget"] <= budget]
    assert played["budget"].nunique() > 1
    assert decision.stop or budget == SIZES[-2]


def test_the_policy_all_buys_everything_and_decides_nothing():
    whole = curves(CLOSE)
    played = simulate("all", whole, question())

    assert played.decisions.empty
    np.testing.assert_array_equal(whole.losses, played.curves.losses)
    assert 4 * SIZES.sum() == played.examples


def test_several_seeds_of_a_cell_are_one_purchase():
    whole = curves(CLOSE)
    twice = replace(whole, losses=np.repeat(whole.losses, 2, axis=2))

    one, two = (simulate("halving", given, question()) for given in (whole, twice))

    assert one.examples == two.examples
    assert two.curves.losses.shape[2] == 2


@pytest.mark.parametrize("policy", ["adaptive", "halving"])
@pytest.mark.parametrize("seed", range(3))
def test_failed_cells_are_lived_with(policy, seed):
    whole = curves([2.0, 2.1, 2.2, 2.4, 2.7, 3.0], noise=0.02, seed=seed)
    losses = whole.losses.copy()
    losses[np.random.default_rng(seed).random(losses.shape) < 0.25] = NAN
    losses[5] = NAN  # nothing of this one ever finishes
    played = simulate(policy, replace(whole, losses=losses), question("stack"))

    first = played.decisions[played.decisions["budget"] == 1600].set_index("candidate")
    assert first.loc["c5", "dropped"] == (
        "it has too few finished cells to be predicted" if policy == "adaptive" else "6 of 6 by AtS"
    )
    assert np.isnan(first.loc["c5", "predicted"])
    stop = played.decisions["stop"].iloc[-1]
    assert stop or SIZES[-1] == played.curves.sizes[-1]
    finite = np.isfinite(played.curves.losses)
    assert not np.any(finite & np.isnan(losses[:, : finite.shape[1]]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "policy", "rel_acc", "saved"),
    [
        ("flan", "halving", 0.932, 0.988),
        ("gigaword", "halving", 1.0, 0.988),
        ("flan", "adaptive", 1.0, 0.928),
        ("gigaword", "adaptive", 1.0, 0.938),
    ],
)
def test_what_the_policies_choose_and_save_on_the_published_tables(name, policy, rel_acc, saved):
    target = 1_638_400
    table = tables.read(name)
    whole = curves_from_cells(table.cells, table.metric, target)
    truth, sizes = whole.mean_losses[:, -1], whole.until(target / 2)
    asked = Question(target, (target / 2,), ("stack",), "stack", seed=0)

    played = simulate(policy, sizes, asked)

    chosen, _ = predictions(played.curves, asked)
    loss = truth[whole.candidates.index(chosen)]
    assert rel_acc == pytest.approx((truth.max() - loss) / np.ptp(truth), abs=5e-4)
    share = 1 - played.examples / (target * len(truth))
    assert share == pytest.approx(saved, abs=5e-4) if policy == "halving" else share >= saved
