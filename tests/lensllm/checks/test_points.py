from dataclasses import replace

import numpy as np
import pytest

from lensllm.checks.points import points


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
