import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensllm.selection import bootstrap, scores
from lensllm.selection.bootstrap import SCORES, compare

NAN = float("nan")


def losses(count=12, replicates=1, noise=0.05, seed=0):
    """Truth (M,) and two predictors' (S, M) losses, the second four times worse."""
    random = np.random.default_rng(seed)
    truth = np.exp(random.normal(1, 0.1, count))
    good, bad = (
        truth * np.exp(k * noise * random.standard_normal((replicates, count))) for k in (1, 4)
    )
    return truth, {"good": good, "bad": bad}


def one(table, predictor, score):
    return table.set_index(["predictor", "score"]).loc[(predictor, score)]


@given(
    data=st.lists(
        st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(0, 3)), min_size=1, max_size=7
    ),
)
def test_every_draw_is_the_score_of_its_candidates(data):
    """Small integers: ties, constants and empty resamples are among them."""
    x, y, counts = np.array(data, dtype=float).T
    weights = np.stack([counts, counts[::-1], np.ones_like(counts)])

    drawn = bootstrap._scores(x, y, weights)

    for n, times in enumerate(weights.astype(int)):
        expected = [getattr(scores, s)(x.repeat(times), y.repeat(times)) for s in SCORES]
        np.testing.assert_allclose(drawn[:, n], expected, rtol=1e-10, atol=1e-12)


def test_values_are_the_scores_of_the_prediction_itself():
    truth, predicted = losses(replicates=5)
    predicted["bad"][0, 3] = truth[7] = NAN

    table = compare(predicted, truth, "good", seed=0, draws=50)

    for name, rows in predicted.items():
        for score in SCORES:
            assert getattr(scores, score)(rows[0], truth) == one(table, name, score)["value"]


def test_one_row_per_predictor_and_score():
    truth, predicted = losses()
    table = compare(predicted, truth, "good", seed=0, draws=50)

    assert [(p, s) for p in ("good", "bad") for s in SCORES] == [
        *zip(table["predictor"], table["score"], strict=True)
    ]


def test_intervals_are_percentiles_of_resampled_candidates():
    """An independent loop over the same number of draws, with a stream of its own."""
    truth, predicted = losses(count=20)
    table = compare(predicted, truth, "good", seed=0, draws=4000)
    random = np.random.default_rng(5)
    samples = random.integers(0, 20, (4000, 20))
    good, bad = (
        [scores.rmse_log(predicted[name][0, i], truth[i]) for i in samples]
        for name in ("good", "bad")
    )

    row = one(table, "bad", "rmse_log")
    np.testing.assert_allclose(
        [row["low"], row["high"]], np.quantile(bad, [0.025, 0.975]), rtol=0.03
    )
    np.testing.assert_allclose(
        [row["difference_low"], row["difference_high"]],
        np.quantile(np.subtract(bad, good), [0.025, 0.975]),
        rtol=0.03,
    )


def test_pairing_makes_the_difference_of_like_predictors_sure():
    truth, predicted = losses()
    predicted["twin"] = predicted["bad"] * 1.02  # the same order, the same correlations

    table = compare(predicted, truth, "bad", seed=0)

    twin = one(table, "twin", "kendall")
    assert twin["high"] - twin["low"] > 0.3
    assert twin[["difference", "difference_low", "difference_high"]].tolist() == [0, 0, 0]


def test_a_better_predictor_is_told_from_a_worse_one():
    truth, predicted = losses(count=30)
    table = compare(predicted, truth, "bad", seed=0)

    assert one(table, "good", "rmse_log")["difference_high"] < 0
    assert one(table, "good", "spearman")["difference_low"] > 0


def test_the_reference_does_not_differ_from_itself():
    truth, predicted = losses(replicates=4)
    table = compare(predicted, truth, "good", seed=0, draws=100)

    rows = table[table["predictor"] == "good"]
    assert np.all(rows[["difference", "difference_low", "difference_high"]] == 0)


def test_replicates_of_the_seeds_widen_the_intervals():
    truth, predicted = losses(count=20)
    random = np.random.default_rng(1)
    wobble = np.exp(0.2 * random.standard_normal((200, 20)))
    steady = {"good": np.repeat(predicted["good"], 201, axis=0)}
    shaken = {"good": np.concatenate([predicted["good"], predicted["good"] * wobble])}

    one_seed, still, moving = (
        one(compare(p, truth, "good", seed=0), "good", "spearman")
        for p in (predicted, steady, shaken)
    )

    assert one_seed["high"] - one_seed["low"] == pytest.approx(
        still["high"] - still["low"], rel=0.3
    )
    assert moving["low"] < still["low"] - 0.1
    assert still["value"] == moving["value"]


def test_the_prediction_itself_is_no_replicate():
    truth, predicted = losses(count=20)
    far = np.concatenate([predicted["good"] * 9, np.repeat(predicted["good"], 3, axis=0)])

    table = compare({"good": far}, truth, "good", seed=0, draws=200)

    assert one(table, "good", "rmse_log")["high"] < 0.2 < one(table, "good", "rmse_log")["value"]


def test_a_difference_leaves_out_what_either_of_the_pair_did_not_predict():
    truth, predicted = losses()
    gaps = {name: rows.copy() for name, rows in predicted.items()}
    gaps["good"][0, 2] = gaps["bad"][0, 5] = NAN
    both = np.delete(np.arange(12), [2, 5])

    row = one(compare(gaps, truth, "good", seed=0, draws=300), "bad", "regret")

    alone, good = (scores.regret(gaps[name][0], truth) for name in ("bad", "good"))
    paired = [scores.regret(predicted[name][0, both], truth[both]) for name in ("bad", "good")]
    assert alone == row["value"]
    assert paired[0] - paired[1] == row["difference"]
    assert np.isfinite(good)


def test_candidates_of_unknown_truth_change_nothing():
    truth, predicted = losses()
    longer = {name: np.append(rows, [[1.0]], axis=1) for name, rows in predicted.items()}

    pd.testing.assert_frame_equal(
        compare(predicted, truth, "good", seed=3, draws=100),
        compare(longer, np.append(truth, NAN), "good", seed=3, draws=100),
    )


def test_resamples_without_an_order_are_left_out():
    """Of two candidates half of the resamples are one of them twice: no correlation."""
    truth, predicted = np.array([1.0, 2.0]), {"p": np.array([[1.0, 2.0]])}
    table = compare(predicted, truth, "p", seed=0, draws=200)

    assert one(table, "p", "kendall")[["value", "low", "high"]].tolist() == [1, 1, 1]


def test_nothing_known_is_nan():
    truth, predicted = losses()
    table = compare(predicted, np.full_like(truth, NAN), "good", seed=0, draws=20)

    assert table.drop(columns=["predictor", "score"]).isna().all(axis=None)


def test_neither_the_company_nor_its_order_changes_a_row():
    truth, predicted = losses(replicates=6)
    more = {"other": predicted["bad"] * 2, "good": predicted["good"], "bad": predicted["bad"]}

    few, many = (compare(p, truth, "good", seed=1, draws=100) for p in (predicted, more))

    pd.testing.assert_series_equal(one(few, "bad", "pearson"), one(many, "bad", "pearson"))


def test_contradictions_are_refused():
    truth, predicted = losses()

    with pytest.raises(ValueError, match="'none' is not among good, bad"):
        compare(predicted, truth, "none", seed=0)
    with pytest.raises(ValueError, match="shapes"):
        compare(predicted, truth[:-1], "good", seed=0)
    with pytest.raises(ValueError, match="shapes"):
        compare(predicted | {"more": predicted["bad"].repeat(2, axis=0)}, truth, "good", seed=0)
