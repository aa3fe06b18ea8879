from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from lensllm.curves import Curves
from lensllm.errors import ConfigError, DataError
from lensllm.predictors import PREDICTORS
from lensllm.ranking import rank, verdict
from lensllm.schemas import schema

SIZES = 100 * 2.0 ** np.arange(6)
TARGET = 12_800.0
NAMES = ("slow", "crossing", "flat", "noisy")
LEVEL, SLOPE = np.array([3.0, 3.4, 2.8, 3.1]), np.array([0.06, 0.15, 0.01, 0.05])
TRUTH = LEVEL * (TARGET / 100) ** -SLOPE


@pytest.fixture(scope="module")
def curves():
    """Power laws: "flat" leads while small, "crossing" at the target."""
    random = np.random.default_rng(0)
    losses = LEVEL[:, None] * (SIZES / 100) ** -SLOPE[:, None]
    losses *= np.exp(0.002 * random.standard_normal(losses.shape))
    return Curves(NAMES, SIZES, losses[:, :, None], zero_shot=LEVEL + 1, parameters=LEVEL * 1e6)


@pytest.fixture(scope="module")
def ranking(curves):
    return rank(curves, TARGET, list(PREDICTORS), TRUTH, seed=0)


def of(ranking, predictor):
    return ranking.predictions.query("predictor == @predictor").set_index("candidate")


def test_frames_follow_their_schemas(ranking):
    for name in ("predictions", "scores"):
        frame, wanted = getattr(ranking, name), schema(f"ranking/{name}")
        assert wanted.names == list(frame.columns)
        assert wanted.equals(pa.Table.from_pandas(frame, wanted, preserve_index=False).schema)


def test_a_predictor_that_lacks_an_input_is_skipped_and_says_what(ranking):
    assert {"lensllm", "lensllm_phase"} == set(ranking.skipped)
    assert "needs the kernel of every candidate" in ranking.skipped["lensllm"]
    assert set(PREDICTORS) - set(ranking.skipped) == set(ranking.predictions["predictor"])


def test_rows_are_ordered_by_predicted_loss_with_the_truth_beside(ranking):
    for _, rows in ranking.predictions.groupby("predictor"):
        assert list(rows["rank"]) == [1, 2, 3, 4]
        assert rows["predicted"].is_monotonic_increasing
        assert rows["p_best"].sum() == pytest.approx(1)
        assert np.all((rows["low"] < rows["predicted"]) & (rows["predicted"] < rows["high"]))
    rows = of(ranking, "ats").loc[list(NAMES)]
    np.testing.assert_array_equal(TRUTH, rows["measured"])
    np.testing.assert_array_equal([2, 1, 4, 3], rows["measured_rank"])


def test_only_extrapolation_finds_the_winner_at_the_target(ranking):
    first = ranking.predictions.query("rank == 1").set_index("predictor")["candidate"]

    assert (
        first["zero_shot"],
        first["ats"],
        first["rectified"],
    ) == ("flat", "crossing", "crossing")
    scores = ranking.scores.set_index("predictor")
    assert (scores.loc["ats", "rel_acc"], scores.loc["ats", "regret"]) == (1.0, 0.0)
    assert scores.loc["zero_shot", "rel_acc"] == 0.0
    assert scores.loc["ats", "rmse_log"] < 0.02


def test_without_truth_there_are_no_scores(curves):
    for truth in (None, np.full(4, np.nan)):
        result = rank(curves, TARGET, ["ats"], truth, seed=0)

        assert result.scores.empty
        pa.Table.from_pandas(result.scores, schema("ranking/scores"), preserve_index=False)
        assert result.predictions["measured"].isna().all()
        np.testing.assert_array_equal(np.zeros(4), result.predictions["measured_rank"])


def test_a_candidate_that_failed_stands_last_without_a_prediction(curves):
    losses = curves.losses.copy()
    losses[1, 2:] = np.nan
    rows = of(rank(replace(curves, losses=losses), TARGET, ["ats"], TRUTH, seed=0), "ats")

    assert rows.index[-1] == "crossing"
    assert rows.loc["crossing", ["predicted", "low", "high"]].isna().all()
    assert rows["p_best"].min() == rows.loc["crossing", "p_best"]


@pytest.mark.parametrize("order", [[2, 0, 3, 1], [3, 2, 1, 0]])
def test_the_order_of_the_candidates_does_not_matter(curves, ranking, order):
    shuffled = Curves(
        tuple(NAMES[i] for i in order),
        SIZES,
        curves.losses[order],
        zero_shot=curves.zero_shot[order],
        parameters=curves.parameters[order],
    )
    result = rank(shuffled, TARGET, ["ats", "zero_shot"], TRUTH[order], seed=0)

    for predictor in ("ats", "zero_shot"):
        pd.testing.assert_frame_equal(of(ranking, predictor), of(result, predictor))


def test_the_seed_decides_the_draws(curves):
    one, same, other = (rank(curves, TARGET, ["ats"], None, seed).predictions for seed in (1, 1, 2))

    pd.testing.assert_frame_equal(one, same)
    assert not one["low"].equals(other["low"])


def test_an_unknown_predictor_is_named(curves):
    with pytest.raises(ConfigError, match="Predictor 'oracle' does not exist: choose among zero_s"):
        rank(curves, TARGET, ["ats", "oracle"], None, seed=0)


def test_too_few_sizes_for_every_predictor_is_an_error(curves):
    with pytest.raises(DataError, match=r"No predictor can rank .* ats needs 3 finished sizes"):
        rank(curves.until(200), TARGET, ["ats", "rectified"], None, seed=0)


def predictions(*p_best):
    return pd.DataFrame(
        {
            "predictor": "ats",
            "candidate": ["gpt", "opt", "t5"][: len(p_best)],
            "rank": range(1, len(p_best) + 1),
            "predicted": [0.912, 0.93, np.nan][: len(p_best)],
            "low": 0.891,
            "high": 0.9341,
            "p_best": p_best,
        }
    )


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (
            predictions(0.706, 0.28, 0.01),
            "gpt is predicted best at D = 1,600 (0.912 bits per byte, 80 % interval 0.891–0.934), "
            "P(best) 71 %; the runner-up is opt.",
        ),
        (
            predictions(0.42, 0.57, 0.01),
            "Too close to call at D = 1,600: gpt is predicted best "
            "(0.912 bits per byte, 80 % interval 0.891–0.934), but P(best) is only 42 %, "
            "against 57 % for opt.",
        ),
        (
            predictions(1.0),
            "gpt is the only candidate with a prediction at D = 1,600 "
            "(0.912 bits per byte, 80 % interval 0.891–0.934).",
        ),
    ],
)
def test_verdict(table, sentence):
    assert sentence == verdict(table, "ats", 1600, "bits_per_byte")


def test_no_verdict_from_a_predictor_that_was_skipped():
    with pytest.raises(DataError, match="Predictor lensllm made no prediction"):
        verdict(predictions(1.0), "lensllm", 1600, "bits_per_byte")
