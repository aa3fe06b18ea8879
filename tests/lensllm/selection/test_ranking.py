from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from lensllm.core.errors import ConfigError, DataError
from lensllm.curves.curve import Curves
from lensllm.predictors import PREDICTORS
from lensllm.selection.answers import Question
from lensllm.selection.backtest import Backtest
from lensllm.selection.ranking import choice, rank, rank_curves, score_ranking, verdict
from lensllm.store.schemas import schema

NAN = float("nan")
SIZES = 100 * 2.0 ** np.arange(6)
BUDGETS = (400, 1600, 3200)
TARGET = 12_800.0
NAMES = ("slow", "crossing", "flat", "noisy")
LEVEL, SLOPE = np.array([3.0, 3.4, 2.8, 3.1]), np.array([0.06, 0.15, 0.01, 0.05])
TRUTH = LEVEL * (TARGET / 100) ** -SLOPE
FRAMES = ("predictions", "scores", "comparison", "weights", "skipped")
UNFIT = {  # no kernels, no weight spectra
    "lensllm",
    "lensllm_phase",
    "lensllm_pooled",
    "pl_alpha",
    "e_tpl_lambda",
}


def power_laws(seeds=1, noise=0.002):
    """ "flat" leads while small, "crossing" at the target."""
    random = np.random.default_rng(0)
    losses = (LEVEL[:, None] * (SIZES / 100) ** -SLOPE[:, None])[:, :, None]
    losses = losses * np.exp(noise * random.standard_normal((4, len(SIZES), seeds)))
    return Curves(NAMES, SIZES, losses, zero_shot=LEVEL + 1, parameters=LEVEL * 1e6)


def asked(*predictors, budgets=BUDGETS[-1:], seed=0, reference="stack"):
    return Question(TARGET, budgets, predictors, reference, seed, draws=500)


@pytest.fixture(scope="module")
def curves():
    return power_laws()


@pytest.fixture(scope="module")
def ranking(curves):
    return rank(curves, asked(*PREDICTORS, budgets=BUDGETS), TRUTH)


def of(ranking, predictor, budget=BUDGETS[-1]):
    rows = ranking.predictions.query("predictor == @predictor and budget == @budget")
    return rows.set_index("candidate")


# --- the tables -----------------------------------------------------------------------------------


def test_frames_follow_their_schemas_even_when_empty(curves, ranking):
    bare = rank(curves, asked("ats"), None)

    assert all(len(getattr(ranking, name)) for name in FRAMES)
    assert [name for name in FRAMES if len(getattr(bare, name))] == ["predictions"]
    for result in (ranking, bare):
        for name in FRAMES:
            frame, wanted = getattr(result, name), schema(f"ranking/{name}")
            assert wanted.names == list(frame.columns)
            table = pa.Table.from_pandas(frame, wanted, preserve_index=False)
            assert wanted.equals(table.schema)
            numbers = {field.name for field in wanted if field.type != pa.string()}
            assert numbers == set(frame.select_dtypes("number").columns)


def test_a_predictor_that_lacks_an_input_is_skipped_and_says_what(ranking):
    largest = ranking.skipped.query("budget == 3200").set_index("predictor")["reason"]
    smallest = ranking.skipped.query("budget == 400").set_index("predictor")["reason"]

    assert set(largest.index) == UNFIT
    assert "needs the kernel of every candidate" in largest["lensllm"]
    assert set(smallest.index) == {*UNFIT, "rectified"}
    assert "rectified law needs 4 finished sizes" in smallest["rectified"]
    for budget in BUDGETS:
        ranked, skipped = (
            set(frame[frame["budget"] == budget]["predictor"])
            for frame in (ranking.predictions, ranking.skipped)
        )
        assert (ranked | skipped, ranked & skipped) == (set(PREDICTORS), set())


def test_rows_are_ordered_by_predicted_loss_with_the_truth_beside(ranking):
    for _, rows in ranking.predictions.groupby(["budget", "predictor"]):
        assert list(rows["rank"]) == [1, 2, 3, 4]
        assert rows["predicted"].is_monotonic_increasing
        assert rows["p_best"].sum() == pytest.approx(1)
        assert np.all((rows["low"] < rows["predicted"]) & (rows["predicted"] < rows["high"]))
        assert np.all(rows["cautious"] > rows["predicted"])
        assert np.all(rows["expected_regret"] >= 0)
    rows = of(ranking, "ats").loc[list(NAMES)]
    np.testing.assert_array_equal(TRUTH, rows["measured"])
    np.testing.assert_array_equal([2, 1, 4, 3], rows["measured_rank"])


def test_only_extrapolation_finds_the_winner_at_the_target(ranking):
    largest = ranking.predictions.query("budget == 3200 and rank == 1")
    first = largest.set_index("predictor")["candidate"]

    assert first["zero_shot"] == "flat"
    assert {first[name] for name in ("ats", "rectified", "hrb", "stack")} == {"crossing"}
    scores = ranking.scores.query("budget == 3200").set_index("predictor")
    assert (scores.loc["ats", "rel_acc"], scores.loc["ats", "regret"]) == (1.0, 0.0)
    assert scores.loc["zero_shot", "rel_acc"] == 0.0
    assert scores.loc["ats", "rmse_log"] < 0.02


@pytest.mark.parametrize("budget", BUDGETS)
def test_several_budgets_at_once_are_as_one_after_the_other(curves, ranking, budget):
    single = rank(curves.until(budget), asked(*PREDICTORS, budgets=(budget,)), TRUTH)

    for name in ("predictions", "scores", "weights", "skipped"):
        together = getattr(ranking, name).query("budget == @budget").reset_index(drop=True)
        pd.testing.assert_frame_equal(getattr(single, name), together)


def test_what_lies_beyond_the_largest_budget_is_not_looked_at(curves):
    question = asked("ats", "stack", budgets=BUDGETS[:-1])
    long, short = (rank(known, question, TRUTH) for known in (curves, curves.until(BUDGETS[-2])))

    for name in FRAMES:
        pd.testing.assert_frame_equal(getattr(long, name), getattr(short, name))


def test_weights_of_the_mixtures(curves, ranking):
    backtest = Backtest(curves, TARGET)
    weights = ranking.weights.set_index(["budget", "predictor", "part"])["weight"]

    assert set(ranking.weights["predictor"]) == {"blend", "stack"}
    for budget in BUDGETS:
        assert weights[budget, "blend"].to_dict() == {"ats": 0.5, "hrb": 0.5}
        expected = backtest.weights("stack", backtest.known(budget))
        assert weights[budget, "stack"].to_dict() == pytest.approx(expected)


def test_without_truth_there_are_no_scores(curves):
    for truth in (None, np.full(4, NAN)):
        result = rank(curves, asked("ats", "sub_tuning", reference="ats"), truth)

        assert result.scores.empty
        assert result.comparison.empty
        assert result.predictions["measured"].isna().all()
        np.testing.assert_array_equal(np.zeros(8), result.predictions["measured_rank"])


def test_a_candidate_that_failed_stands_last_without_a_prediction(curves):
    losses = curves.losses.copy()
    losses[1, 2:] = NAN
    rows = of(rank(replace(curves, losses=losses), asked("ats"), TRUTH), "ats")

    assert rows.index[-1] == "crossing"
    assert rows.loc["crossing", ["predicted", "low", "high", "cautious"]].isna().all()
    assert rows["p_best"].min() == rows.loc["crossing", "p_best"]


@pytest.mark.parametrize("order", [[2, 0, 3, 1], [3, 2, 1, 0]])
def test_the_order_of_the_candidates_does_not_matter(curves, order):
    shuffled = curves.only([NAMES[i] for i in order])
    question = asked("ats", "zero_shot", "stack")
    straight, other = rank(curves, question, TRUTH), rank(shuffled, question, TRUTH[order])

    pd.testing.assert_frame_equal(straight.predictions, other.predictions)
    pd.testing.assert_frame_equal(straight.scores, other.scores)


def test_the_seed_decides_the_draws(curves):
    one, same, other = (
        rank(curves, asked("ats", seed=seed), None).predictions for seed in (1, 1, 2)
    )

    pd.testing.assert_frame_equal(one, same)
    assert not one["low"].equals(other["low"])


def test_an_unknown_predictor_is_named(curves):
    with pytest.raises(ConfigError, match="Predictor 'oracle' does not exist: choose among zero_s"):
        rank(curves, asked("ats", "oracle"), None)


def test_too_few_sizes_for_every_predictor_is_an_error(curves):
    with pytest.raises(DataError, match=r"No predictor can rank .* ats needs 3 finished sizes"):
        rank(curves, asked("ats", "rectified", budgets=(100, 200)), None)


# --- the comparison -------------------------------------------------------------------------------


def test_every_predictor_is_compared_with_the_reference_at_the_largest_budget(ranking):
    table = ranking.comparison.set_index(["predictor", "score"])
    scores = ranking.scores.query("budget == 3200").set_index("predictor")

    assert set(ranking.comparison["predictor"]) == set(PREDICTORS) - UNFIT
    for (predictor, score), row in table.iterrows():
        assert row["value"] == pytest.approx(scores.loc[predictor, score])
        expected = scores.loc[predictor, score] - scores.loc["stack", score]
        assert row["difference"] == pytest.approx(expected, abs=1e-12)
    own = table.loc["stack", ["difference", "difference_low", "difference_high"]]
    assert np.all(own.fillna(0) == 0)


def test_a_reference_that_was_skipped_leaves_nothing_to_compare_with(curves):
    result = rank(curves, asked("ats", "lensllm", reference="lensllm"), TRUTH)

    assert result.comparison.empty
    assert list(result.scores["predictor"]) == ["ats"]


@pytest.mark.parametrize(("seeds", "varies"), [(1, False), (3, True)])
def test_seeds_are_resampled_where_there_are_several(seeds, varies):
    """With the truth of one candidate only seeds are left to vary."""
    truth = np.array([NAN, TRUTH[1], NAN, NAN])
    question = asked("ats", "sub_tuning", reference="ats")
    table = rank(power_laws(seeds, noise=0.01), question, truth).comparison

    rows = table.query("score == 'rmse_log'")
    assert np.all((rows["low"] < rows["high"]) == varies)
    assert np.all(rows["low"] <= rows["high"])


def test_a_set_of_seeds_without_enough_runs_is_survived():
    """One of two seeds was begun at two sizes only: drawn twice, it is too little for AtS."""
    curves = power_laws(seeds=2, noise=0.01)
    curves.losses[:, 2:, 1] = NAN

    table = rank(curves, asked("ats", "sub_tuning", reference="ats"), TRUTH).comparison

    rmse = table.query("score == 'rmse_log'")
    assert np.isfinite(rmse[["value", "low", "high"]]).all(axis=None)


# --- the choice and the verdict -------------------------------------------------------------------


def predictions(p_best, cautious=(0.92, 0.94, NAN)):
    count = len(p_best)
    return pd.DataFrame(
        {
            "predictor": "ats",
            "candidate": ["gpt", "opt", "t5"][:count],
            "rank": range(1, count + 1),
            "predicted": [0.912, 0.93, NAN][:count],
            "low": 0.891,
            "high": 0.9341,
            "cautious": cautious[:count],
            "p_best": p_best,
            "expected_regret": [0.0123, 0.0047, NAN][:count],
        }
    )


UNSURE = (0.95, 0.94, NAN)  # the leader's cautious prediction is behind


def test_the_choice_is_the_lowest_cautious_prediction():
    assert choice(predictions([0.7, 0.2, 0.1])) == "gpt"
    assert choice(predictions([0.7, 0.2, 0.1], UNSURE)) == "opt"
    assert choice(predictions([0.7, 0.2, 0.1], (0.94, 0.94, NAN))) == "gpt"
    with pytest.raises(DataError, match="no prediction to choose by"):
        choice(predictions([0.7, 0.2, 0.1], (NAN, NAN, NAN)))


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (
            predictions([0.706, 0.28, 0.01]),
            "gpt is predicted best at D = 1,600 (0.912 bits per byte, 80 % interval 0.891–0.934), "
            "P(best) 71 %, expected regret 0.012; the runner-up is opt.",
        ),
        (
            predictions([0.42, 0.57, 0.01]),
            "Too close to call at D = 1,600: gpt is predicted best "
            "(0.912 bits per byte, 80 % interval 0.891–0.934), but P(best) is only 42 %, "
            "against 57 % for opt; expected regret 0.012.",
        ),
        (
            predictions([0.3, 0.69, 0.01], UNSURE),
            "opt is the choice at D = 1,600 (0.930 bits per byte, 80 % interval 0.891–0.934), "
            "P(best) 69 %, expected regret 0.005; the runner-up is gpt. "
            "gpt is predicted lower (0.912) but less surely, by more than it would gain.",
        ),
        (
            predictions([0.57, 0.42, 0.01], UNSURE),
            "Too close to call at D = 1,600: opt is the choice "
            "(0.930 bits per byte, 80 % interval 0.891–0.934), but P(best) is only 42 %, "
            "against 57 % for gpt; expected regret 0.005. "
            "gpt is predicted lower (0.912) but less surely, by more than it would gain.",
        ),
        (
            predictions([1.0]),
            "gpt is the only candidate with a prediction at D = 1,600 "
            "(0.912 bits per byte, 80 % interval 0.891–0.934).",
        ),
    ],
    ids=["clear", "too close", "clear choice", "close choice", "alone"],
)
def test_verdict(table, sentence):
    assert sentence == verdict(table, "ats", 1600, "bits_per_byte")


def test_no_verdict_from_a_predictor_that_was_skipped():
    with pytest.raises(DataError, match="Predictor lensllm made no prediction"):
        verdict(predictions([1.0]), "lensllm", 1600, "bits_per_byte")


def test_the_dropped_stand_last_and_change_nothing_for_the_others(curves):
    """Even one that is predicted lowest, from the few sizes it has."""
    losses = curves.losses.copy()
    losses[1, 4:] = np.nan
    short = replace(curves, losses=losses)
    asked = Question(TARGET, BUDGETS[-1:], ("ats", "stack"), "stack", seed=0)
    racing = [name for name in NAMES if name != "crossing"]

    alone = rank(short.only(racing), asked, None).predictions
    ranking = rank(short, asked, TRUTH, {"crossing"})

    for predictor in ("ats", "stack"):
        rows = of(ranking, predictor)
        assert rows.index[-1] == "crossing"
        assert rows["p_best"].sum() == pytest.approx(1)
        assert rows.loc["crossing", "p_best"] == pytest.approx(0.02)
        assert rows.loc["crossing", ["cautious", "expected_regret"]].isna().all()
        assert np.isfinite(rows.loc["crossing", "predicted"])
        kept = rows.loc[racing, ["predicted", "low", "high", "cautious", "expected_regret"]]
        expected = alone[alone["predictor"] == predictor].set_index("candidate")
        pd.testing.assert_frame_equal(expected.loc[racing, kept.columns], kept)
        assert choice(rows.reset_index()) in racing
    score = ranking.scores.set_index("predictor").loc["ats"]
    assert score["regret"] > 0  # the best was dropped
    compared = ranking.comparison.set_index(["predictor", "score"])["value"]
    for name in ("rel_acc", "regret"):
        assert compared["ats", name] == pytest.approx(score[name])


def test_the_last_one_left_has_no_runner_up_among_the_dropped(curves):
    asked = Question(TARGET, BUDGETS[-1:], ("stack",), "stack", seed=0)
    predictions = rank(curves, asked, None, set(NAMES[1:])).predictions

    said = verdict(predictions, "stack", TARGET, "bits_per_byte")

    assert said.startswith("slow is the only candidate left at D = 12,800 (")


def test_a_ranking_is_scored_by_name_whatever_the_order_of_the_truth() -> None:
    sizes = 100 * 2.0 ** np.arange(6)
    losses = np.stack([3 * sizes**-0.05, 4 * sizes**-0.1, 5 * sizes**-0.08])
    curves = Curves(("a", "b", "c"), sizes, losses[:, :, None])
    table = rank_curves(curves, 12_800, "ats")
    truth = {"c": 2.4, "a": 1.9, "b": 1.6}
    found = score_ranking(table, truth)
    assert found == score_ranking(table, dict(sorted(truth.items())))
    assert found["spearman"] == 1.0
    assert found["regret"] == 0.0
    with pytest.raises(DataError, match="target 800 is not above the largest size 3,200"):
        rank_curves(curves, 800)
    with pytest.raises(DataError, match="no candidate 'd'"):
        score_ranking(table, {"d": 1.0})


def test_the_truth_at_a_size_is_a_mean_over_seeds() -> None:
    losses = np.array([[[3.0, 3.2], [2.0, np.nan]], [[4.0, 4.0], [np.nan, np.nan]]])
    curves = Curves(("a", "b"), np.array([100.0, 200.0]), losses)
    assert curves.losses_at(100) == pytest.approx({"a": 3.1, "b": 4.0})
    assert curves.losses_at(200) == {"a": 2.0}
    with pytest.raises(DataError, match="no loss at 150 training examples: sizes are 100, 200"):
        curves.losses_at(150)
