from dataclasses import replace

import numpy as np
import pytest

from lensllm.curves.curve import Curves
from lensllm.diagnostics.checks.points import noise_log, points

SIZES = 200 * 2.0 ** np.arange(8)


def test_gaps_are_left_out_and_more_seeds_are_less_noise(clean, losses):
    values = losses(seeds=4, noise=0.01)
    values[1, 2] = np.nan
    values[1, 5, :3] = np.nan
    first, second, *_ = points(replace(clean.curves, losses=values))

    assert len(first.sizes) == 8
    assert second.columns.tolist() == [0, 1, 3, 4, 5, 6, 7]
    np.testing.assert_array_equal(clean.curves.sizes[second.columns], second.sizes)
    np.testing.assert_allclose(np.log(values[1, 0].mean()), second.log_losses[0])
    assert first.noise[0] == pytest.approx(0.01 / 2, rel=0.25)
    assert second.noise[4] == pytest.approx(2 * first.noise[0])


def test_curves_without_a_loss_have_no_points(clean):
    assert list(points(replace(clean.curves, losses=np.full((6, 8, 1), np.nan)))) == []


def noisy(seed, seeds=1):
    """Four power laws whose runs err by 1 %."""
    random = np.random.default_rng(seed)
    slope, level = random.normal(-0.08, 0.01, (4, 1)), random.normal(1, 0.1, (4, 1))
    logs = level + slope * np.log2(SIZES / SIZES[0])
    wobble = 0.01 * random.standard_normal((4, 8, seeds))
    return Curves(tuple("abcd"), SIZES, np.exp(logs[:, :, None] + wobble))


@pytest.mark.parametrize("seeds", [1, 5])
def test_noise_is_read_from_seeds_or_from_second_differences(seeds):
    measured = [noise_log(noisy(seed, seeds)) for seed in range(20)]

    assert np.mean(measured) == pytest.approx(0.01, rel=0.15)


def test_a_bend_that_all_curves_share_is_no_noise():
    straight = noisy(0)
    bent = straight.losses * np.exp(0.02 * np.log2(SIZES / SIZES[0]) ** 2)[:, None]

    assert noise_log(replace(straight, losses=bent)) == pytest.approx(noise_log(straight))


def test_two_sizes_show_no_noise():
    assert noise_log(noisy(0).until(SIZES[1])) == 0.004
