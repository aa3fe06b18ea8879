from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kstest, t

from lensllm.curves.curve import Curves
from lensllm.predictors import AtS, Hrb
from lensllm.selection.backtest import Backtest, ForecastErrors
from lensllm.selection.uncertainty import Draws, ErrorScale, error_scale, outlook

NAN = float("nan")
SIZES = 200 * 2.0 ** np.arange(8)
NAMES = tuple("abcde")
TARGET = 409_600.0


def make(seed=0, noise=0.005, bend=0.0, count=4):
    """Power laws; ``bend`` is the sd of each one's own change of slope per doubling."""
    random = np.random.default_rng(seed)
    x = np.log2(SIZES / SIZES[0])
    slope = random.normal(-0.08, 0.01, (count, 1))
    logs = 1 + slope * x + random.normal(0, 0.1, (count, 1))
    logs = logs + bend * random.normal(0, 1, (count, 1)) * x**2
    losses = np.exp(logs[:, :, None] + noise * random.standard_normal((count, len(x), 1)))
    return Curves(NAMES[:count], SIZES, losses, zero_shot=np.exp(logs[:, 0] + 0.5))


@pytest.fixture(scope="module")
def backtest():
    return Backtest(make(), TARGET)


# --- the spread -----------------------------------------------------------------------------------


def by_the_book(curves, target, predict):
    """The spread of a predictor, formula by formula, on doublings with all cells finished."""
    y, n, M = np.log(curves.mean_losses), len(curves.sizes), len(curves.candidates)
    first = 3 if n == 5 else 4
    cells = {}  # (a, j): errors in units of g
    for a in range(first, n):
        for j in range(a, n):
            known, size = curves.until(curves.sizes[a - 1]), curves.sizes[[j]]
            g = np.exp(np.mean(np.log(Hrb().predict(known, size).sd_log)))
            cells[a, j] = (y[:, j] - np.log(predict(known, size).loss[:, 0])) / g

    hsd = Hrb().predict(curves, np.array([target])).sd_log[:, 0]
    g = np.exp(np.mean(np.log(hsd)))
    H = np.log2(target / curves.sizes[-1])

    # ½ log var on log h, weights 1/.3², prior slope N(0, .2²), any level
    log_h = np.array([np.log(j - a + 1) for a, j in cells])
    half_log_var = np.array([0.5 * np.log(E.var(ddof=1)) for E in cells.values()])
    X = np.column_stack([np.ones(len(cells)), log_h])
    ridge = np.diag([0.0, 1 / 0.2**2])
    delta = np.linalg.solve(X.T @ X / 0.3**2 + ridge, X.T @ half_log_var / 0.3**2)[1]
    ST = g * H**delta

    k = n - first
    squares, common = np.zeros(M), 0.0
    for (a, j), E in cells.items():
        h = j - a + 1
        weight = 1 / (n - first + 1 - h) / k  # 1 / N_h, over k different h
        E = E / h**delta
        U = (E - E.mean()) / np.sqrt(hsd / g)
        squares += weight * U**2
        common += weight * E.mean() ** 2
    q = M / (M - 1) * squares
    s2 = (3 * 1.5**2 + k * q.mean()) / (3 + k)
    sigma2 = (30 * s2 + k * q) / (30 + k)
    own = np.sqrt(sigma2 * (hsd / g) * ST**2)
    return own, np.sqrt(ST**2 * (3 * 1.5**2 + k * common) / (3 + k))


@pytest.mark.parametrize("known", [5, 7, 8])
@pytest.mark.parametrize(("name", "predict"), [("ats", AtS().predict), ("hrb", Hrb().predict)])
def test_the_recipe_formula_by_formula(backtest, name, predict, known):
    own, common = by_the_book(backtest.curves.until(SIZES[known - 1]), TARGET, predict)

    actual = error_scale(backtest, name, known)

    np.testing.assert_allclose(actual.sd_log, own, rtol=1e-7)
    assert actual.common_sd_log == pytest.approx(common, rel=1e-7)


@pytest.mark.parametrize("known", [3, 4])
def test_without_a_backtest_errors_are_one_and_a_half_of_hrbs(backtest, known):
    curves = backtest.curves.until(SIZES[known - 1])
    hsd = Hrb().predict(curves, np.array([TARGET])).sd_log[:, 0]
    typical = np.exp(np.log(hsd).mean())

    actual = error_scale(backtest, "stack", known)

    np.testing.assert_allclose(actual.sd_log, 1.5 * np.sqrt(hsd / typical) * typical)
    assert actual.common_sd_log == pytest.approx(1.5 * typical)


@pytest.mark.parametrize("name", ["ats", "sub_tuning", "blend"])
def test_farther_is_less_sure(backtest, name):
    near, far = (error_scale(Backtest(backtest.curves, t), name, 8) for t in (TARGET / 8, TARGET))

    assert np.all(far.sd_log > near.sd_log)


def test_candidates_that_bend_each_their_own_way_widen_their_own_part():
    straight, bent = (error_scale(Backtest(make(bend=b), TARGET), "ats", 8) for b in (0.0, 0.01))

    assert np.all(bent.sd_log > 3 * straight.sd_log)


def test_failed_cells_leave_every_candidate_a_spread(backtest):
    losses = backtest.curves.losses.copy()
    losses[1, 3:6] = losses[2, 4:] = losses[3, 1:] = NAN
    failed = Backtest(replace(backtest.curves, losses=losses), TARGET)

    for name in ("ats", "sub_tuning", "stack"):
        assert np.all(np.isfinite(error_scale(failed, name, 8).sd_log))


def test_one_candidate_alone():
    alone = Backtest(make(count=1), TARGET)
    uncertainty = error_scale(alone, "stack", 8)

    assert uncertainty.sd_log > 0
    assert uncertainty.common_sd_log > 0
    expected = outlook(alone.ask("stack", 8).loss[:, -1], uncertainty, Draws.of(("a",), 0, 100))
    np.testing.assert_allclose(expected.p_best, [1.0])
    np.testing.assert_allclose(expected.expected_regret, [0.0])


# --- the spread of given errors -------------------------------------------------------------------

HORIZONS = np.array([1.0, 2, 3, 4, 1, 2, 3, 1, 2, 1])
UNEQUAL = np.array([0.02, 0.04, 0.03, 0.05])
PRIOR = 3 * 1.5**2


class GivenErrors(Backtest):
    """A backtest of given errors (C, M), in HRB's sd; ``ahead`` is the target in doublings."""

    def __init__(self, errors, sd=UNEQUAL, ahead=2.0):
        super().__init__(make(count=len(sd)), SIZES[-1] * 2.0**ahead)
        self.sd = sd
        self.given = ForecastErrors(HORIZONS, 0.02 * errors, np.full(errors.shape, 0.02), origins=4)

    def unit(self, known):
        return self.sd[:, None]

    def errors(self, name, known):
        return self.given


ERRORS = np.random.default_rng(5).standard_normal((10, 4))


def test_an_error_that_all_share_is_kept_apart():
    shared = np.linspace(1, 3, 10)[:, None]

    alone, together = (error_scale(GivenErrors(e), "ats", 8) for e in (ERRORS, ERRORS + shared))

    np.testing.assert_allclose(together.sd_log, alone.sd_log)
    assert together.common_sd_log > 1.3 * alone.common_sd_log


def test_nothing_but_a_shared_error():
    """Four origins tell of an error of 2 sd, three of 1.5 were believed before."""
    own, common = vars(error_scale(GivenErrors(np.full((10, 4), 2.0)), "ats", 8)).values()

    typical = np.exp(np.log(UNEQUAL).mean())
    assert common == pytest.approx(typical * np.sqrt((PRIOR + 4 * 2.0**2) / 7))
    share = UNEQUAL / typical
    np.testing.assert_allclose(own, typical * np.sqrt(share * PRIOR / 7 * 30 / 34))


def test_the_worst_forecast_candidate_is_the_least_sure():
    equal = np.full(4, 0.03)
    errors = ERRORS.copy()
    errors[:, 2] *= 10

    sd = error_scale(GivenErrors(errors, equal), "ats", 8).sd_log

    assert sd.argmax() == 2
    np.testing.assert_array_less(error_scale(GivenErrors(ERRORS, equal), "ats", 8).sd_log, sd)


def test_errors_that_outgrow_hrbs_sd_do_so_beyond_the_data():
    """Errors as the square of the horizon: the exponent lies between none and two."""
    growing = ERRORS[:1] * HORIZONS[:, None] ** 2
    steady = np.repeat(ERRORS[:1], 10, axis=0)

    def ratio(errors):
        near, far = (error_scale(GivenErrors(errors, ahead=h), "ats", 8).sd_log for h in (2.0, 8.0))
        return far / near

    np.testing.assert_allclose(ratio(steady), np.ones(4))
    assert np.all((ratio(growing) > 1.5) & (ratio(growing) < 4.0**2))


def test_a_target_inside_the_data_is_half_a_doubling_away():
    half, none, inside = (
        error_scale(GivenErrors(ERRORS * HORIZONS[:, None], ahead=h), "ats", 8)
        for h in (0.5, 0.0, -3.0)
    )

    for other in (none, inside):
        np.testing.assert_allclose(other.sd_log, half.sd_log)


def test_a_candidate_without_a_forecast_gets_the_pooled_spread():
    errors, equal = np.repeat(ERRORS[:1], 10, axis=0), np.full(4, 0.03)
    errors[:, 1] = NAN

    alone, *others = (
        error_scale(GivenErrors(errors, equal), "ats", 8).sd_log[[1, 0, 2, 3]] / 0.03
    ) ** 2

    # a candidate's own four origins have 4 of 34 parts in its spread: the rest is pooled
    centred = errors[0, [0, 2, 3]] - errors[0, [0, 2, 3]].mean()
    pooled = (PRIOR + 4 * np.mean(1.5 * centred**2)) / 7
    assert alone == pytest.approx(pooled)
    np.testing.assert_allclose(others, (30 * pooled + 4 * 1.5 * centred**2) / 34)


def test_a_candidate_that_was_never_seen_is_nobody_elses_concern():
    sd, errors = np.insert(UNEQUAL, 1, NAN), np.insert(ERRORS, 1, NAN, axis=1)

    actual, expected = (
        error_scale(GivenErrors(errors, sd), "ats", 8),
        error_scale(GivenErrors(ERRORS), "ats", 8),
    )

    np.testing.assert_allclose(actual.sd_log, np.insert(expected.sd_log, 1, NAN))
    assert actual.common_sd_log == pytest.approx(expected.common_sd_log)


def test_a_size_that_nobody_finished_tells_nothing():
    """It is not a forecast without an error."""
    errors = np.full((10, 4), 2.0)
    errors[[3, 6, 8, 9]] = NAN  # the last size, from every origin

    common = error_scale(GivenErrors(errors), "ats", 8).common_sd_log

    typical = np.exp(np.log(UNEQUAL).mean())
    assert common == pytest.approx(typical * np.sqrt((PRIOR + 4 * 2.0**2) / 7))


# --- the forecast ---------------------------------------------------------------------------------

T10_90 = 1.3722  # 90 % quantile of Student's t, ten degrees
MANY = Draws.of(("a", "b", "c"), seed=3, count=100_000)


def first(count, draws=MANY):
    """The draws of the first ``count`` candidates."""
    return Draws(draws.own[:, :count], draws.common)


def test_the_interval_of_own_and_common_parts():
    predicted = np.array([1.0, 1.05])
    own = outlook(predicted, ErrorScale(np.array([0.05, 0.1]), 0.0), first(2))
    common = outlook(predicted, ErrorScale(np.zeros(2), 0.2), first(2))

    for expected, sd in ((own, np.array([0.05, 0.1])), (common, np.full(2, 0.2))):
        tolerance = {"atol": 0.01 * sd.max()}
        np.testing.assert_allclose(np.log(expected.high / predicted), T10_90 * sd, **tolerance)
        np.testing.assert_allclose(np.log(expected.low / predicted), -T10_90 * sd, **tolerance)


def test_two_candidates():
    """P(best) and expected regret by integrals over the two errors."""
    predicted, sd = np.array([1.0, 1.03]), np.array([0.05, 0.02])
    actual = outlook(predicted, ErrorScale(sd, 0.0), first(2))

    grid = np.linspace(-15, 15, 2001)
    chance = t(10).pdf(grid) * (grid[1] - grid[0])
    one, other = (x * np.exp(s * grid) for x, s in zip(predicted, sd, strict=True))
    difference = one[:, None] - other
    both = chance[:, None] * chance
    wins = both[difference < 0].sum()
    np.testing.assert_allclose(actual.p_best, 0.98 * np.array([wins, 1 - wins]) + 0.01, atol=5e-3)
    regrets = [(both * np.maximum(d, 0)).sum() for d in (difference, -difference)]
    np.testing.assert_allclose(actual.expected_regret, regrets, rtol=0.02)


def test_the_surely_best_is_not_regretted():
    predicted = np.array([1.0, 1.5, 4.0])

    expected = outlook(predicted, ErrorScale(np.full(3, 1e-4), 1e-4), MANY)

    np.testing.assert_allclose(expected.expected_regret, predicted - 1.0, atol=1e-3)
    assert expected.p_best[0] > 0.98


def test_caution_asks_half_an_own_sd_more_of_the_unsure():
    predicted, sd = np.array([1.0, 1.02]), np.array([0.1, 0.01])

    expected = outlook(predicted, ErrorScale(sd, 0.5), first(2))

    np.testing.assert_allclose(expected.cautious, [np.exp(0.05), 1.02 * np.exp(0.005)])


def test_the_common_part_widens_intervals_but_keeps_the_winner():
    predicted, own = np.array([1.0, 1.1, 1.2]), np.full(3, 0.03)
    narrow, wide = (outlook(predicted, ErrorScale(own, common), MANY) for common in (0.0, 0.3))

    assert np.all(wide.high / wide.low > 2 * narrow.high / narrow.low)
    np.testing.assert_array_equal(wide.p_best, narrow.p_best)


def test_chances_sum_to_one_and_rule_nobody_out_but_nan_never_wins():
    draws = Draws.of(("a", "b", "c"), 0, 1000)
    expected = outlook(np.array([1.0, 5.0, NAN]), ErrorScale(np.full(3, 0.01), 0.0), draws)

    assert expected.p_best.sum() == pytest.approx(1)
    assert expected.p_best[1] == expected.p_best[2] == 0.98 * 0.5 / 1001.5 + 0.02 / 3
    for name in ("low", "high", "cautious", "expected_regret"):
        assert np.isnan(getattr(expected, name)).tolist() == [False, False, True]


def test_draws_belong_to_the_candidates_name():
    one, other = Draws.of(("a", "b", "c"), 7, 50), Draws.of(("c", "a"), 7, 50)

    np.testing.assert_array_equal(other.own, one.own[:, [2, 0]])
    np.testing.assert_array_equal(other.common, one.common)
    assert len(np.unique(np.hstack([one.own, one.common]))) == 200
    assert not np.any(one.own == Draws.of(("a", "b", "c"), 8, 50).own)


def test_draws_are_of_student_t():
    assert kstest(MANY.own.ravel(), t(10).cdf).pvalue > 1e-3


def test_intervals_cover_about_four_fifths_of_noisy_power_laws():
    """Curves that bend a little, two doublings ahead: neither blind nor boastful."""
    target, inside = 4 * SIZES[5], []
    for seed in range(8):
        full = make(seed, noise=0.006, bend=0.003)
        backtest = Backtest(full.until(SIZES[5]), target)
        uncertainty = error_scale(backtest, "ats", 6)
        predicted = backtest.ask("ats", 6).loss[:, -1]
        expected = outlook(predicted, uncertainty, Draws.of(NAMES[:4], seed, 500))
        truth = full.mean_losses[:, -1]
        inside.append(np.mean((expected.low <= truth) & (truth <= expected.high)))

    assert 0.65 < np.mean(inside) < 0.98
