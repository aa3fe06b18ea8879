from dataclasses import replace

import numpy as np
import pytest

from lensllm.curves import Curves
from lensllm.predictors import PREDICTORS
from lensllm.uncertainty import PRIOR_NOISE_LOG, Spread, forecast, noise_log, spread

SIZES = 100 * 2.0 ** np.arange(8)
NAMES = tuple("abcdef")
ATS = PREDICTORS["ats"]


def curves(seed=0, noise=0.0, seeds=1, bend=0.0, sizes=SIZES):
    """Six power laws; ``bend`` is the sd of each one's own change of slope per doubling."""
    random = np.random.default_rng(seed)
    x = np.log2(sizes / sizes[0])
    slope = random.normal(-0.08, 0.01, (6, 1))
    logs = 1 + slope * x + random.normal(0, 0.1, (6, 1)) + bend * random.normal(0, 1, (6, 1)) * x**2
    losses = np.exp(logs[:, :, None] + noise * random.standard_normal((6, len(x), seeds)))
    return Curves(NAMES, sizes, losses, zero_shot=np.exp(logs[:, 0] + 0.5))


def test_a_predictor_that_was_right_so_far_is_trusted_more_than_the_prior():
    straight, short = curves(), curves().until(SIZES[2])

    many, none = (spread(c, 4 * c.sizes[-1], ATS) for c in (straight, short))

    assert np.all(many.sd_log < 0.7 * none.sd_log)
    assert many.common_sd_log < 0.7 * none.common_sd_log
    assert (none.degrees, many.degrees) == (3.0, 8.0)


def test_candidates_that_bend_each_their_own_way_widen_their_own_part():
    straight, bent = (spread(curves(bend=b), 1e5, ATS) for b in (0.0, 0.01))

    assert np.all(bent.sd_log > 3 * straight.sd_log)


def test_an_error_that_all_share_leaves_the_ranking_sure():
    common = 0.02 * np.arange(8.0) ** 2
    straight = curves()
    sinking = replace(straight, losses=straight.losses * np.exp(-common)[:, None])

    alone, together = (spread(c, 1e5, ATS) for c in (straight, sinking))

    np.testing.assert_allclose(together.sd_log, alone.sd_log, rtol=1e-6)
    assert together.common_sd_log > 3 * alone.common_sd_log


@pytest.mark.parametrize("name", ["ats", "sub_tuning", "rectified", "vanilla"])
def test_farther_is_less_sure(name):
    near, far = (spread(curves(noise=0.003), t, PREDICTORS[name]) for t in (3e4, 1e6))

    assert np.all(far.sd_log > near.sd_log)


def test_the_error_of_an_order_does_not_grow_with_the_horizon():
    """Zero-shot losses are as far from the target's as from any other size's."""
    near, far = (spread(curves(), t, PREDICTORS["zero_shot"]) for t in (3e4, 1e6))

    assert np.all(far.sd_log < 2 * near.sd_log)


def test_the_spread_is_not_below_the_noise_between_seeds():
    result = spread(curves(noise=0.05, seeds=4), SIZES[-1], ATS)

    assert np.all(result.sd_log > 0.04)


@pytest.mark.parametrize("seeds", [1, 5])
def test_noise_is_read_from_seeds_or_from_second_differences(seeds):
    measured = [noise_log(curves(seed, noise=0.01, seeds=seeds)) for seed in range(20)]

    assert np.mean(measured) == pytest.approx(0.01, rel=0.15)


def test_two_sizes_show_no_noise():
    assert noise_log(curves().until(SIZES[1])) == PRIOR_NOISE_LOG


def test_a_law_with_as_many_parameters_as_points_is_not_trusted_far_from_a_line():
    four = curves().until(SIZES[3])
    drop = four.losses.copy()
    drop[2, 3] *= 0.9  # the law follows the last point down
    result = spread(replace(four, losses=drop), 1e5, PREDICTORS["rectified"])

    assert result.sd_log.argmax() == 2
    assert result.sd_log[2] > 2 * np.median(result.sd_log)


def test_failed_cells_leave_every_candidate_a_spread():
    losses = curves(noise=0.003).losses
    losses[1, 3:6] = np.nan
    losses[4, 2:] = np.nan
    result = spread(replace(curves(), losses=losses), 1e5, ATS)

    assert np.all(np.isfinite(result.sd_log))


def test_one_candidate_alone():
    alone = Curves(("a",), SIZES, curves().losses[:1])
    result = forecast(("a",), ATS.predict(alone, 1e5).loss, spread(alone, 1e5, ATS), 0, 500)

    np.testing.assert_allclose(result.p_best, [1.0])


def test_forecast_of_a_known_posterior():
    """Own parts alone: t with many degrees is normal, the interval ± 1.2816 sd."""
    sure = Spread(np.full(2, 0.05), common_sd_log=0.0, degrees=1e6)
    result = forecast(("a", "b"), np.array([1.0, 1.05]), sure, seed=3, draws=200_000)

    np.testing.assert_allclose(np.log(result.high), np.log([1, 1.05]) + 1.2816 * 0.05, atol=1e-3)
    np.testing.assert_allclose(np.log(result.low), np.log([1, 1.05]) - 1.2816 * 0.05, atol=1e-3)
    chance = 0.7549  # Φ(ln 1.05 / (.05 √2))
    assert result.p_best[0] == pytest.approx(0.98 * chance + 0.01, abs=3e-3)


def test_the_common_part_widens_intervals_but_keeps_the_winner():
    predicted = np.array([1.0, 1.1, 1.2])
    own = np.full(3, 0.03)
    narrow, wide = (
        forecast(NAMES[:3], predicted, Spread(own, common, 5.0), 0, 4000) for common in (0.0, 0.3)
    )

    assert np.all(wide.high / wide.low > 2 * narrow.high / narrow.low)
    np.testing.assert_array_equal(narrow.p_best, wide.p_best)


def test_the_order_of_the_candidates_does_not_change_a_draw():
    predicted, own = np.array([1.0, 1.1, 1.05]), np.array([0.05, 0.1, 0.07])
    order = [2, 0, 1]

    one = forecast(("a", "b", "c"), predicted, Spread(own, 0.1, 5.0), 7, 1000)
    other = forecast(("c", "a", "b"), predicted[order], Spread(own[order], 0.1, 5.0), 7, 1000)

    for name in ("low", "high", "p_best"):
        np.testing.assert_array_equal(getattr(one, name)[order], getattr(other, name))


def test_chances_sum_to_one_and_rule_nobody_out_but_nan_never_wins():
    predicted = np.array([1.0, 5.0, np.nan])
    result = forecast(NAMES[:3], predicted, Spread(np.full(3, 0.01), 0.0, 8.0), 0, 1000)

    assert result.p_best.sum() == pytest.approx(1)
    assert result.p_best[1] == result.p_best[2] == 0.98 * 0.5 / 1001.5 + 0.02 / 3
    np.testing.assert_array_equal(np.isnan(result.low), [False, False, True])


def test_intervals_cover_about_four_fifths_of_noisy_power_laws():
    """Curves that bend a little, two doublings ahead: neither blind nor boastful."""
    target = 4 * SIZES[-1]
    inside = []
    for seed in range(40):
        full = curves(seed, noise=0.006, bend=0.004, sizes=100 * 2.0 ** np.arange(10))
        known = full.until(SIZES[-1])
        result = forecast(
            NAMES, ATS.predict(known, target).loss, spread(known, target, ATS), seed, 500
        )
        truth = full.mean_losses[:, -1]
        inside.append(np.mean((result.low <= truth) & (truth <= result.high)))

    assert 0.7 < np.mean(inside) < 0.97


def test_a_size_that_nobody_finished_is_no_backtest():
    losses = curves(noise=0.003).losses
    losses[:, 5] = np.nan
    result = spread(replace(curves(), losses=losses), 1e5, ATS)

    assert np.all(np.isfinite(result.sd_log))
    assert result.degrees == 8.0  # every origin still has the last size to predict
