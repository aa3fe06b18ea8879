import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares, minimize_scalar

from lensllm.laws.descent import BETAS
from lensllm.laws.varpro import profile, solve

SIZES = 200 * 2.0 ** np.arange(10)


def law(sizes, B, beta, E, offset):
    return B / (offset + sizes**beta) + E


def family(count, noise, seed=0, sizes=SIZES):
    """(M, S) losses of laws of every shape: steep, shallow, with and without offset or floor."""
    random = np.random.default_rng(seed)
    beta, offset = random.uniform(0.1, 1.2, count), np.exp(random.uniform(-2, 7, count))
    E = random.uniform(0, 1.5, count) * (random.random(count) < 0.7)
    fall = random.uniform(0.5, 3, count)
    B = fall * (offset + sizes[0] ** beta)
    losses = law(sizes, *(x[:, None] for x in (B, beta, E, offset)))
    return losses * np.exp(noise * random.standard_normal(losses.shape))


def multi_start(losses, starts=8):
    """The best sum of squares that scipy finds in the same box from random starts."""
    random = np.random.default_rng(1)
    low = np.log([1e-12, BETAS[0], 1e-12, 1e-30])
    high = np.log([1e40, BETAS[1], 10.0, (30 * SIZES[-1]) ** BETAS[1]])
    best = np.inf
    for _ in range(starts):
        beta = np.exp(random.uniform(np.log(0.05), np.log(1.5)))
        offset = np.exp(random.uniform(-2, beta * np.log(SIZES[-1])))
        E = losses[-1] * random.uniform(0.05, 1)
        B = max(losses[0] - E, 0.01) * (offset + SIZES[0] ** beta)
        found = least_squares(
            lambda q: np.log(law(SIZES, *np.exp(q))) - np.log(losses),
            np.log([B, beta, E, offset]),
            bounds=(low, high),
        )
        best = min(best, 2 * found.cost)
    return best


def test_exact_curves_are_recovered():
    B, beta, E, offset = np.array([[900.0, 40.0], [0.6, 0.35], [0.7, 1.2], [350.0, 9.0]])
    found = solve(SIZES, law(SIZES, *(x[:, None] for x in (B, beta, E, offset))))

    np.testing.assert_allclose(found.sum_squares, 0, atol=1e-15)
    for expected, actual in ((beta, found.beta), (E, found.E), (offset, found.offset)):
        np.testing.assert_allclose(actual, expected, rtol=1e-4)
    np.testing.assert_allclose(found.B, B, rtol=1e-3)


def test_no_random_start_of_scipy_finds_a_better_fit():
    losses = family(6, noise=0.01)
    found = solve(SIZES, losses)

    oracle = np.array([multi_start(row) for row in losses])
    assert np.all(found.sum_squares <= oracle * (1 + 1e-5))
    fitted = law(SIZES, *(x[:, None] for x in (found.B, found.beta, found.E, found.offset)))
    np.testing.assert_allclose((np.log(fitted / losses) ** 2).sum(1), found.sum_squares, rtol=1e-6)


def test_a_curve_with_a_jump_is_fitted_as_well_as_scipy_does():
    losses = family(3, noise=0.002, seed=5)
    losses[:, 6:] *= 0.85
    found = solve(SIZES, losses)

    oracle = np.array([multi_start(row) for row in losses])
    assert np.all(found.sum_squares <= oracle * (1 + 1e-5))


def test_a_long_valley_is_walked_to_its_end():
    # Four points that the law meets exactly, where ln β and ln offset can only move together.
    sizes = 200 * 2.0 ** np.arange(4)
    found = solve(sizes, np.array([[3.08740983, 2.36910447, 1.93941225, 1.68239343]]))

    np.testing.assert_allclose(found.sum_squares, 0, atol=1e-15)


@settings(max_examples=15)
@given(factor=st.floats(0.01, 100), seed=st.integers(0, 50))
def test_scaling_the_losses_scales_b_and_e_alone(factor, seed):
    losses = family(2, noise=0.003, seed=seed)
    one, other = solve(SIZES, losses), solve(SIZES, factor * losses)

    np.testing.assert_allclose(other.sum_squares, one.sum_squares, rtol=1e-5)
    at = 50 * SIZES[-1]
    predicted = [law(at, *list(vars(found).values())[:4]) for found in (one, other)]
    np.testing.assert_allclose(predicted[1], factor * predicted[0], rtol=1e-2)


def test_curves_do_not_see_each_other():
    losses = family(5, noise=0.01, seed=2)
    together = solve(SIZES, losses)

    for order in ([4, 2, 0, 1, 3], [3]):
        some = solve(SIZES, losses[order])
        np.testing.assert_allclose(some.sum_squares, together.sum_squares[order], rtol=1e-7)
        np.testing.assert_allclose(some.beta, together.beta[order], rtol=1e-3)


def test_missing_cells_weigh_nothing():
    losses = family(3, noise=0.01, seed=3)
    kept = np.array([0, 1, 3, 4, 6, 7, 9])
    holes = np.full_like(losses, np.nan)
    holes[:, kept] = losses[:, kept]

    expected, actual = solve(SIZES[kept], losses[:, kept]), solve(SIZES, holes)

    np.testing.assert_allclose(actual.sum_squares, expected.sum_squares, rtol=1e-6)
    np.testing.assert_allclose(actual.beta, expected.beta, rtol=1e-3)


def test_a_curve_without_cells_is_nan_and_harms_nobody():
    losses = family(2, noise=0.01)
    found = solve(SIZES, np.stack([losses[0], np.full(len(SIZES), np.nan), losses[1]]))

    assert np.isnan(
        [found.B[1], found.beta[1], found.E[1], found.offset[1], found.sum_squares[1]]
    ).all()
    np.testing.assert_allclose(
        found.sum_squares[[0, 2]], solve(SIZES, losses).sum_squares, rtol=1e-7
    )


def test_a_rising_curve_is_a_constant_at_the_geometric_mean():
    rising = np.linspace(1.0, 1.3, len(SIZES))
    found = solve(SIZES, rising[None])

    assert found.B[0] == 0
    assert found.E[0] == pytest.approx(np.exp(np.log(rising).mean()), rel=1e-6)


def test_offsets_stay_inside_their_bounds():
    losses = family(6, noise=0.01, seed=7)
    free = solve(SIZES, losses)
    lower, upper = free.offset * 1.5 + 0.1, free.offset * 3 + 0.2
    bounded = solve(SIZES, losses, lower, upper)

    assert np.all((bounded.offset >= lower * (1 - 1e-9)) & (bounded.offset <= upper * (1 + 1e-9)))
    assert np.all(bounded.sum_squares >= free.sum_squares * (1 - 1e-9))


@pytest.mark.parametrize("offset", [0.0, 25.0])
def test_a_fixed_offset_leaves_the_best_beta(offset):
    losses = family(3, noise=0.01, seed=8)
    found = solve(SIZES, losses, offset, offset)

    np.testing.assert_allclose(found.offset, offset, rtol=1e-12)
    for row, sum_squares in zip(losses, found.sum_squares, strict=True):

        def cost(log_beta, row=row):
            def residuals(q):
                B, E = np.exp(q)
                return np.log(law(SIZES, B, np.exp(log_beta), E, offset)) - np.log(row)

            beta_power = offset + SIZES[0] ** np.exp(log_beta)
            return 2 * least_squares(residuals, np.log([row[0] * beta_power, row[-1] / 2])).cost

        scan = np.linspace(*np.log(BETAS), 40)
        near = scan[np.argmin([cost(u) for u in scan])]
        oracle = minimize_scalar(cost, bounds=(near - 0.15, near + 0.15), method="bounded").fun
        assert sum_squares <= oracle * (1 + 1e-4)


def test_the_profile_is_the_fit_at_every_fixed_offset_worth_considering():
    losses = family(3, noise=0.01, seed=9)

    log_offsets, along = profile(SIZES, losses, offsets=24)

    for log_offset, values in zip(log_offsets, along, strict=True):
        fixed = solve(SIZES, losses, np.exp(log_offset), np.exp(log_offset))
        worth = fixed.sum_squares < 4 * along.min(0)
        np.testing.assert_allclose(values[worth], fixed.sum_squares[worth], rtol=1e-2)
