import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from lensllm.selection import scores

NAN = float("nan")
CORRELATIONS = {
    scores.pearson: scipy.stats.pearsonr,
    scores.spearman: scipy.stats.spearmanr,
    scores.kendall: scipy.stats.kendalltau,
}


@pytest.mark.parametrize("ours", CORRELATIONS)
@given(pairs=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=2, max_size=12))
def test_correlations_agree_with_scipy_with_ties(ours, pairs):
    x, y = np.array(pairs, dtype=float).T
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert np.isnan(ours(x, y))
    else:
        assert CORRELATIONS[ours](x, y)[0] == pytest.approx(ours(x, y), abs=1e-12)


@pytest.mark.parametrize(
    "score",
    [*CORRELATIONS, scores.rel_acc, scores.regret, scores.rmse_log, scores.p_best_log_score],
)
def test_candidates_without_prediction_or_truth_are_left_out(score):
    x, y = np.array([0.2, 0.5, 0.3]), np.array([1.0, 3.0, 1.5])

    assert score(x, y) == score(np.append(x, [NAN, 0.1]), np.append(y, [0.5, NAN]))


@pytest.mark.parametrize("score", [*CORRELATIONS, scores.rel_acc])
def test_one_candidate_has_no_order(score):
    assert np.isnan(score(np.array([1.0]), np.array([2.0])))


@pytest.mark.parametrize(
    "score",
    [*CORRELATIONS, scores.rel_acc, scores.regret, scores.rmse_log, scores.p_best_log_score],
)
def test_nothing_known_is_nan(score):
    assert np.isnan(score(np.array([1.0, 2.0]), np.array([NAN, NAN])))
    assert np.isnan(scores.coverage_80(np.ones(1), np.ones(1), np.array([NAN])))


def test_rel_acc_and_regret_of_the_chosen():
    predicted, truth = np.array([3.0, 1.0, 2.0]), np.array([1.0, 1.5, 3.0])

    assert scores.rel_acc(predicted, truth) == (3.0 - 1.5) / (3.0 - 1.0)
    assert scores.regret(predicted, truth) == 1.5 - 1.0


def test_tied_predictions_are_chosen_with_equal_chance():
    predicted, truth = np.array([1.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0])

    assert scores.rel_acc(predicted, truth) == 0.75
    assert scores.regret(predicted, truth) == 0.5


def test_rel_acc_of_equal_truths_is_nan():
    assert np.isnan(scores.rel_acc(np.array([1.0, 2.0]), np.array([3.0, 3.0])))


def test_rmse_log_is_a_relative_error():
    truth = np.array([1.0, 10.0])

    assert scores.rmse_log(truth * np.exp([0.3, -0.4]), truth) == pytest.approx(0.125**0.5)


def test_coverage_counts_the_bounds_in():
    low, high = np.array([1.0, 1.0, 1.0, NAN]), np.array([2.0, 2.0, 2.0, NAN])

    assert scores.coverage_80(low, high, np.array([1.0, 1.5, 2.5, 1.0])) == 2 / 3


def test_log_score_of_uniform_chances_is_ln_m_also_when_two_are_best():
    uniform = np.full(4, 0.25)

    assert scores.p_best_log_score(uniform, np.array([1.0, 2.0, 3.0, 4.0])) == np.log(4)
    assert scores.p_best_log_score(uniform, np.array([1.0, 1.0, 3.0, 4.0])) == np.log(4)
