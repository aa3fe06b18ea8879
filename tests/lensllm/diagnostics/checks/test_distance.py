from dataclasses import replace

import numpy as np
import pytest

from lensllm.diagnostics.checks.distance import find


@pytest.mark.parametrize(("target", "fires"), [(25_600 * 32, False), (25_600 * 33, True)])
def test_five_doublings_beyond_the_largest_size_are_the_limit(clean, target, fires):
    assert fires == bool(find(replace(clean, target=float(target))))


def test_the_largest_size_is_one_that_somebody_finished(clean):
    losses = clean.curves.losses.copy()
    losses[:, 4:] = np.nan
    context = replace(clean, curves=replace(clean.curves, losses=losses))

    (found,) = find(context)

    assert "D = 100,000 is 6.0 doublings beyond D = 1,600, the largest" in found.message


def test_a_target_inside_the_sizes_is_near(clean):
    assert find(replace(clean, target=1000.0)) == []


def test_without_any_loss_there_is_no_distance(clean):
    nothing = np.full((6, 8, 1), np.nan)

    assert find(replace(clean, curves=replace(clean.curves, losses=nothing))) == []
