from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensllm.curves.curve import Curves, curves_from_cells
from lensllm.curves.tables import read
from lensllm.diagnostics.checks import RankingEvidence
from lensllm.diagnostics.checks.curves import jumps, noise_log, points, rises

# --- points of a curve ------------------------------------------------------------------------------
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


# --- LENS104 ----------------------------------------------------------------------------------------
def messages(context):
    return {found.candidate: found.message for found in jumps.find(context)}


def table(name, budget, with_losses):
    cells = read(name)
    curves = curves_from_cells(cells.cells, cells.metric, budget)
    context = with_losses(np.ones((1, 8)))
    return type(context)(**{**vars(context), "curves": curves})


@pytest.mark.parametrize("step", range(1, 8))
@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_a_jump_at_any_step_is_found_and_named(with_losses, losses, step, factor):
    values = losses()
    values[2, step:] *= factor

    (message,) = messages(with_losses(values)).values()

    sizes = 200 * 2 ** np.arange(8)
    kind = "jump or outlier" if step in (1, 7) else "jump"
    assert f"c ({kind} from {sizes[step - 1]:,} to {sizes[step]:,}, " in message
    percent = float(message.partition(" %")[0].rsplit("at least ")[-1])
    assert 0.3 < percent / (100 * factor - 100) < 1.1


@pytest.mark.parametrize("place", range(1, 7))
@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_an_outlier_inside_is_told_from_a_jump(with_losses, losses, place, factor):
    values = losses()
    values[4, place] *= factor

    (message,) = messages(with_losses(values)).values()

    assert f"e (outlier at {200 * 2**place:,}, at least {'+' if factor > 1 else '-'}" in message


@pytest.mark.parametrize("place", [0, 7])
def test_an_outlier_at_an_end_may_be_a_jump(with_losses, losses, place):
    values = losses()
    values[4, place] *= 1.1

    assert "(jump or outlier from " in messages(with_losses(values))["e"]


@given(
    beta=st.floats(0.05, 1.0),
    log_start=st.floats(0, 16),
    floor=st.floats(0, 0.9),
    doublings=st.sampled_from([0.5, 1, 1.5, 2]),
    count=st.integers(4, 14),
)
def test_no_law_leaves_its_own_course(beta, log_start, floor, doublings, count):
    """One curve without noise: what others share could hide it."""
    sizes = 100 * 2 ** (doublings * np.arange(count))
    loss = floor + (1 - floor) / (1 + (sizes / np.exp(log_start)) ** beta)
    curves = Curves(("a",), sizes, loss[None, :, None])

    assert jumps.find(RankingEvidence(curves, 1e6, "bits_per_byte", None, None, None)) == []


def test_what_all_candidates_share_is_no_jump(with_losses, losses):
    values = losses()
    values[:, 4] *= 1.2  # an unlucky subset, the same for all

    assert messages(with_losses(values)) == {}


def test_a_jump_is_found_over_gaps_and_uneven_sizes(with_losses):
    sizes = np.array([100.0, 150, 400, 1000, 1500, 5000, 9000, 20_000])
    values = np.linspace(1, 1.5, 6)[:, None] * sizes**-0.1
    values[3, 5:] *= 0.88
    values[1, [2, 4]] = values[3, 4] = np.nan

    (message,) = messages(with_losses(values, sizes)).values()

    assert "d (jump from 1,000 to 5,000, at least -12.0 %)" in message


def test_a_long_step_beside_short_ones_is_held_to_their_noise(with_losses):
    """Between 1,000 and 1,050 noise alone makes a slope of any size."""
    sizes = np.array([100.0, 1000, 1050, 10_500, 11_000, 110_000])
    random = np.random.default_rng(0)
    noise = np.exp(0.004 * random.standard_normal((6, 6, 3)))

    assert messages(with_losses(sizes[:, None] ** -0.1 * noise, sizes)) == {}


def test_each_candidates_own_unit_does_not_matter(with_losses, losses):
    values = losses()
    values[0, 4:] *= 0.9
    units = np.array([1.0, 30, 0.1, 4, 2, 7])[:, None, None]

    assert messages(with_losses(values)) == messages(with_losses(units * values))


def test_noise_between_seeds_is_no_jump(with_losses, losses):
    assert messages(with_losses(losses(seeds=3, noise=0.04))) == {}


def test_three_sizes_tell_nothing(with_losses, losses):
    values = losses()[:, :3]
    values[0, 1:] *= 0.7

    assert messages(with_losses(values, 200 * 2.0 ** np.arange(3))) == {}


@pytest.mark.parametrize(
    ("name", "budget", "found"),
    [
        ("gigaword", 6400, {"google/switch-base-8": "outlier at 400, at least +"}),
        (
            "gigaword",
            12_800,
            {
                "facebook/bart-base": "jump or outlier from 6,400 to 12,800, at least -",
                "google/switch-base-8": "outlier at 400, at least +",
            },
        ),
        (
            "gigaword",
            1_638_400,
            {
                "facebook/bart-base": "jump from 6,400 to 12,800, at least -",
                "google/switch-base-8": "outlier at 400, at least +",
            },
        ),
        ("flan", 3200, {}),
        ("flan", 204_800, {}),
        ("flan", 1_638_400, {}),
    ],
)
def test_what_fires_on_the_published_tables(with_losses, name, budget, found):
    messages_found = messages(table(name, budget, with_losses))

    assert found.keys() == messages_found.keys()
    for candidate, detail in found.items():
        assert f"{candidate} ({detail}" in messages_found[candidate]


# --- LENS105 ----------------------------------------------------------------------------------------
def flat(rise, seeds=4, noise=0.01):
    """Constant curves whose seeds scatter by ``noise``, but for one rise of the first candidate."""
    logs = np.zeros((6, 8, seeds))
    logs += noise * np.sqrt((seeds - 1) / seeds) * np.resize([1, -1], seeds)  # sd is noise
    logs[0, 3:] += rise
    return np.exp(logs)


@pytest.mark.parametrize(("rise", "fires"), [(0.020, False), (0.0225, True)])
def test_three_times_the_noise_of_the_difference(with_losses, rise, fires):
    """Of the means over 4 seeds: 3 · .01 · √(2/4) = .0212."""
    assert fires == bool(rises.find(with_losses(flat(rise))))


def test_the_largest_rise_is_named(with_losses):
    (found,) = rises.find(with_losses(flat(0.05)))

    assert found.candidate == "a"
    assert "a (+5.1 % from 800 to 1,600, noise 0.7 %);" in found.message


def test_a_failed_seed_makes_a_rise_less_sure(with_losses):
    values = flat(0.0225)
    values[0, 3, 1:3] = np.nan

    assert rises.find(with_losses(values)) == []


def test_with_one_seed_the_roughness_of_the_curves_is_the_noise(with_losses, losses):
    rough, smooth = losses(seeds=1, noise=0.03), losses(seeds=1, noise=0.001)
    for values in (rough, smooth):
        values[1, 5] = values[1, 4] * 1.03

    assert "b" in {found.candidate for found in rises.find(with_losses(smooth))}
    assert rises.find(with_losses(rough)) == []


def test_a_rise_over_a_gap_is_a_rise(with_losses):
    values = flat(0.1)
    values[0, 3] = np.nan

    (found,) = rises.find(with_losses(values))

    assert "from 800 to 3,200" in found.message


@pytest.mark.parametrize("name", ["flan", "gigaword"])
def test_published_curves_fall(clean, name):
    table = read(name)
    curves = curves_from_cells(table.cells, table.metric, 1_638_400)

    assert rises.find(replace(clean, curves=curves)) == []
