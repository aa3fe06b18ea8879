from dataclasses import replace

import numpy as np
import pytest

from lensllm.curves.curve import curves_from_cells
from lensllm.curves.losses import read
from lensllm.diagnostics.checks.rises import find


def flat(rise, seeds=4, noise=0.01):
    """Constant curves whose seeds scatter by ``noise``, but for one rise of the first candidate."""
    logs = np.zeros((6, 8, seeds))
    logs += noise * np.sqrt((seeds - 1) / seeds) * np.resize([1, -1], seeds)  # sd is noise
    logs[0, 3:] += rise
    return np.exp(logs)


@pytest.mark.parametrize(("rise", "fires"), [(0.020, False), (0.0225, True)])
def test_three_times_the_noise_of_the_difference(with_losses, rise, fires):
    """Of the means over 4 seeds: 3 · .01 · √(2/4) = .0212."""
    assert fires == bool(find(with_losses(flat(rise))))


def test_the_largest_rise_is_named(with_losses):
    (found,) = find(with_losses(flat(0.05)))

    assert found.candidate == "a"
    assert "a (+5.1 % from 800 to 1,600, noise 0.7 %);" in found.message


def test_a_failed_seed_makes_a_rise_less_sure(with_losses):
    values = flat(0.0225)
    values[0, 3, 1:3] = np.nan

    assert find(with_losses(values)) == []


def test_with_one_seed_the_roughness_of_the_curves_is_the_noise(with_losses, losses):
    rough, smooth = losses(seeds=1, noise=0.03), losses(seeds=1, noise=0.001)
    for values in (rough, smooth):
        values[1, 5] = values[1, 4] * 1.03

    assert "b" in {found.candidate for found in find(with_losses(smooth))}
    assert find(with_losses(rough)) == []


def test_a_rise_over_a_gap_is_a_rise(with_losses):
    values = flat(0.1)
    values[0, 3] = np.nan

    (found,) = find(with_losses(values))

    assert "from 800 to 3,200" in found.message


@pytest.mark.parametrize("name", ["flan", "gigaword"])
def test_published_curves_fall(clean, name):
    table = read(name)
    curves = curves_from_cells(table.cells, table.metric, 1_638_400)

    assert find(replace(clean, curves=curves)) == []
