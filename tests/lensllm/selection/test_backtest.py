from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensllm.core.errors import DataError
from lensllm.curves.curve import Curves
from lensllm.predictors import AtS, Hrb
from lensllm.predictors.mixtures import least_error_weights
from lensllm.selection.backtest import Backtest
from lensllm.selection.uncertainty import error_scale

NAN = float("nan")
SIZES = 200 * 2.0 ** np.arange(7)
TARGET = 409_600.0
MIXED = ("ats", "hrb", "blend", "stack")


def make(losses, sizes=SIZES):
    losses = np.asarray(losses)
    zero_shot = np.linspace(5.0, 6.0, len(losses))
    names = tuple("abcdef"[: len(losses)])
    return Curves(names, sizes, losses[:, :, None], zero_shot=zero_shot)


def bending(sizes=SIZES, count=3, noise=0.01):
    """Curves that steepen, each its own way."""
    random = np.random.default_rng(3)
    x = np.log2(sizes / sizes[0])
    slope, bend = random.uniform(0.03, 0.1, (count, 1)), random.uniform(0.0, 0.01, (count, 1))
    logs = 1.2 - slope * x - bend * x**2 + noise * random.standard_normal((count, len(sizes)))
    return make(np.exp(logs), sizes)


@pytest.fixture(scope="module")
def curves():
    return bending()


@pytest.fixture(scope="module")
def backtest(curves):
    return Backtest(curves, TARGET)


def test_how_many_sizes_a_budget_knows(backtest):
    assert [backtest.known(b) for b in (199, 200, 399, 400, 12_800, 1e9)] == [0, 1, 1, 2, 7, 7]


@pytest.mark.parametrize(("name", "predict"), [("ats", AtS().predict), ("hrb", Hrb().predict)])
def test_the_errors_are_what_asking_the_predictor_gives(curves, backtest, name, predict):
    known = 6
    judged = backtest.errors(name, known)

    rows = [(origin, ahead) for origin in (4, 5) for ahead in range(origin, known)]
    assert judged.origins == 2
    np.testing.assert_allclose(judged.horizons, [ahead - origin + 1 for origin, ahead in rows])
    for row, (origin, ahead) in enumerate(rows):
        asked, size = curves.until(SIZES[origin - 1]), SIZES[[ahead]]
        predicted = predict(asked, size).loss[:, 0]
        error = np.log(curves.mean_losses[:, ahead] / predicted)
        np.testing.assert_allclose(judged.errors[row], error, atol=1e-9)
        np.testing.assert_allclose(judged.unit[row], Hrb().predict(asked, size).sd_log[:, 0])


def test_an_answer_is_about_all_later_sizes_and_the_target(curves, backtest):
    expected = AtS().predict(curves.until(SIZES[4]), np.array([*SIZES[5:], TARGET])).loss

    np.testing.assert_array_equal(backtest.ask("ats", 5).loss, expected)
    last = Hrb().predict(curves, np.array([TARGET]))
    np.testing.assert_allclose(backtest.unit(7), last.sd_log)


def test_a_mixture_is_the_weighed_mean_of_log_losses(backtest):
    parts = [backtest.errors(name, 7) for name in ("ats", "hrb")]
    errors = np.stack([part.errors for part in parts], axis=1)
    share = least_error_weights(errors, parts[0].horizons)
    line, posterior = (np.log(backtest.ask(name, 7).loss) for name in ("ats", "hrb"))

    assert {"ats": pytest.approx(share[0]), "hrb": pytest.approx(share[1])} == backtest.weights(
        "stack", 7
    )
    assert abs(share[0] - 0.5) > 0.01
    np.testing.assert_allclose(
        np.log(backtest.ask("stack", 7).loss), share[0] * line + share[1] * posterior
    )
    np.testing.assert_allclose(np.log(backtest.ask("blend", 7).loss), (line + posterior) / 2)


def test_the_errors_of_a_mixture_use_only_weights_that_were_known_then(backtest):
    """From origin 6 the stack may use what 6 sizes told of its parts, not what 7 did."""
    judged = backtest.errors("stack", 7)
    shares = [backtest.weights("stack", origin) for origin in (4, 5, 6)]

    assert shares[0] == {"ats": 0.5, "hrb": 0.5}
    parts = [backtest.errors(name, 7).errors for name in ("ats", "hrb")]
    for row, origin in enumerate([0, 0, 0, 1, 1, 2]):  # 4 sizes are known, then 5, then 6
        mixed = sum(
            shares[origin][name] * errors[row]
            for name, errors in zip(("ats", "hrb"), parts, strict=True)
        )
        np.testing.assert_allclose(judged.errors[row], mixed, atol=1e-12)


def test_a_plain_predictor_is_all_of_itself(backtest):
    assert backtest.weights("ats", 7) == {"ats": 1.0}


# --- what lies ahead ------------------------------------------------------------------------------


def answers(backtest, known):
    """Everything that a budget of ``known`` sizes is told."""
    for name in MIXED:
        judged = backtest.errors(name, known)
        yield from (judged.horizons, judged.errors, judged.unit, np.array(judged.origins))
        yield backtest.ask(name, known).loss[:, -1]
        yield np.array(list(backtest.weights(name, known).values()))
        beyond = error_scale(backtest, name, known)
        yield from (beyond.sd_log, np.array(beyond.common_sd_log))


@settings(max_examples=15)
@given(data=st.data(), known=st.integers(3, 6))
def test_losses_beyond_the_budget_change_nothing(curves, backtest, data, known):
    other = curves.losses.copy()
    place = st.tuples(st.integers(0, 2), st.integers(known, 6))
    for row, column in data.draw(st.lists(place, min_size=1, max_size=6)):
        other[row, column] = data.draw(st.one_of(st.just(NAN), st.floats(0.1, 50)))

    changed = Backtest(replace(curves, losses=other), TARGET)

    for expected, actual in zip(answers(backtest, known), answers(changed, known), strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("known", [3, 5, 6])
def test_a_smaller_budget_is_served_as_by_a_backtest_of_its_own(curves, backtest, known):
    own = Backtest(curves.until(SIZES[known - 1]), TARGET)

    for expected, actual in zip(answers(own, known), answers(backtest, known), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


# --- origins --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "horizons"),
    [
        (3, []),
        (4, []),
        (5, [1, 2, 1]),  # from 3 sizes and from 4
        (6, [1, 2, 1]),  # from 4 and from 5
        (7, [1, 2, 3, 1, 2, 1]),
    ],
)
def test_origins_on_doublings(backtest, known, horizons):
    assert horizons == backtest.errors("sub_tuning", known).horizons.tolist()


def test_origins_of_a_fine_grid_are_spread_over_its_doublings():
    sizes = np.arange(200.0, 3400.0, 100.0)  # four doublings
    judged = Backtest(bending(sizes, count=1), TARGET).errors("sub_tuning", len(sizes))

    assert judged.origins == 12
    to_the_last = judged.horizons[np.append(judged.horizons[1:] < judged.horizons[:-1], True)]
    assert to_the_last[0] == pytest.approx(np.log2(sizes[-1] / sizes[3]))
    assert to_the_last[-1] == pytest.approx(np.log2(sizes[-1] / sizes[-2]))
    gaps = -np.diff(to_the_last)
    assert gaps.max() < 0.4  # of 3 doublings in 11 steps, but for the grid


# --- what is missing ------------------------------------------------------------------------------


def test_an_origin_from_which_nobody_has_enough_sizes_is_left_out(curves):
    losses = curves.losses.copy()
    losses[:, :2] = NAN
    sparse = Backtest(replace(curves, losses=losses), TARGET)

    assert sparse.errors("ats", 7).origins == 2  # 4 sizes hold two losses of each
    assert sparse.errors("hrb", 7).origins == 3
    with pytest.raises(DataError, match="ats needs 3 finished sizes"):
        sparse.ask("ats", 4)


def test_parts_are_judged_from_the_origins_they_share(curves):
    """Where AtS has no forecast there is nothing to compare HRB's with."""
    losses = curves.losses.copy()
    losses[:, :2] = NAN
    sparse = Backtest(replace(curves, losses=losses), TARGET)
    judged = [sparse.errors(name, 7) for name in ("ats", "hrb")]
    both = np.stack([part.errors[-3:] for part in judged], axis=1)  # from 5 sizes and from 6

    weights = sparse.weights("stack", 7)

    expected = least_error_weights(both, judged[0].horizons[-3:])
    np.testing.assert_allclose(list(weights.values()), expected)


def test_an_origin_before_the_first_loss_is_left_out():
    """There zero-shot losses answer, but HRB, in whose sd errors are counted, cannot."""
    losses = bending().losses.copy()
    losses[:, :4] = NAN
    late = Backtest(make(losses[:, :, 0]), TARGET)

    assert late.errors("zero_shot", 7).origins == 2


def test_failed_cells_have_no_error(curves):
    losses = curves.losses.copy()
    losses[1, 5] = NAN

    judged = Backtest(replace(curves, losses=losses), TARGET).errors("ats", 7)

    ahead = np.array([4, 5, 6, 5, 6, 6])
    expected = np.zeros((6, 3), dtype=bool)
    expected[ahead == 5, 1] = True
    np.testing.assert_array_equal(np.isnan(judged.errors), expected)
