import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensllm.curves import Curves
from lensllm.errors import DataError
from lensllm.predictors import ats

SIZES = 200 * 2.0 ** np.arange(11)
FAR = np.array([1e5])
# Losses at D = 200 … 204,800 measured by Lin et al. 2024 (FLAN, FLAN, Gigaword), and AtS's
# prediction at 1,638,400 from budgets 3,200, 25,600 and 204,800. With these predictions of all 30
# models, PearCorr and RelAcc equal those published in every cell.
MEASURED = {
    "Cerebras-GPT-111M": (
        [
            3.76275,
            3.68945,
            3.592725,
            3.48915,
            3.4068,
            3.3245,
            3.236925,
            3.107725,
            2.990925,
            2.827025,
            2.63835,
        ],
        [2.67292, 2.65435, 2.1905],
    ),
    "mt5-large": (
        [
            2.596183,
            2.527809,
            2.469873,
            2.389121,
            2.311028,
            2.22012,
            2.137791,
            2.051298,
            1.965535,
            1.889912,
            1.81021,
        ],
        [1.71353, 1.61897, 1.6048],
    ),
    "gpt2-medium": (
        [
            2.297875,
            2.213875,
            2.130438,
            2.049838,
            1.965384,
            1.891002,
            1.809825,
            1.742038,
            1.671563,
            1.602385,
            1.530375,
        ],
        [1.37796, 1.36862, 1.36013],
    ),
}


def curves(losses, sizes=SIZES):
    losses = np.atleast_2d(losses)
    return Curves(tuple(map(str, range(len(losses)))), sizes, losses[:, :, None])


@pytest.mark.parametrize(("column", "budget"), [(0, 3_200), (1, 25_600), (2, 204_800)])
def test_published_curves(column, budget):
    losses = np.array([losses for losses, _ in MEASURED.values()])
    expected = [predicted[column] for _, predicted in MEASURED.values()]

    actual = ats.predict(curves(losses).until(budget), np.array([1_638_400.0])).loss[:, 0]

    np.testing.assert_allclose(actual, expected, atol=1e-4)


@given(slope=st.floats(-0.5, 0.0), level=st.floats(0, 3))
def test_a_power_law_is_continued_to_every_target(slope, level):
    losses, targets = np.exp(level) * SIZES**slope, np.array([1e5, 1e7, 1e9])

    actual = ats.predict(curves(losses), targets).loss

    np.testing.assert_allclose(actual, [np.exp(level) * targets**slope], rtol=1e-9)


def test_it_stops_at_the_bend_and_ignores_everything_before():
    x = np.log(SIZES)
    y = np.where(SIZES < 3200, 2.0, 2.0 - 0.3 * np.log(SIZES / 3200))
    y = y + 1e-3 * (-1.0) ** np.arange(len(SIZES))

    slope, level = ats.accepted_line(x, y, gamma=3, tau=5.0)

    assert (slope, level) == pytest.approx(tuple(np.polyfit(x[4:], y[4:], 1)))


def test_the_smallest_size_is_tested_but_never_accepted():
    random = np.random.default_rng(1)
    x = np.arange(8.0)
    y = -0.1 * x + 0.01 * random.standard_normal(8)

    expected = np.polyfit(x[1:], y[1:], 1)
    assert ats.accepted_line(x, y, gamma=3, tau=50.0) == pytest.approx(tuple(expected))


def test_gamma_points_are_all_used_and_fewer_refused():
    losses = np.array([3.0, 2.8, 2.1])
    slope, level = np.polyfit(np.log(SIZES[:3]), np.log(losses), 1)

    three = curves(losses, SIZES[:3])
    np.testing.assert_allclose(
        ats.predict(three, FAR).loss, [[np.exp(level + slope * np.log(1e5))]], rtol=1e-9
    )
    with pytest.raises(DataError, match="ats needs 3 finished sizes"):
        ats.predict(three.until(400), FAR)


def test_failed_cells_are_left_out():
    losses = np.array([MEASURED["mt5-large"][0]] * 2)
    losses[0, [2, 8]] = np.nan
    losses[1, :9] = np.nan
    kept = np.isfinite(losses[0])

    expected = ats.predict(curves(losses[0, kept], SIZES[kept]), FAR).loss
    np.testing.assert_allclose(ats.predict(curves(losses), FAR).loss, [*expected, [np.nan]])
