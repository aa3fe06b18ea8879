import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensllm.core.errors import DataError
from lensllm.curves import tables
from lensllm.curves.curve import Curves, curves_from_cells
from lensllm.predictors import Hrb, Prediction, hrb
from lensllm.predictors.hrb import DEFAULT_PRIOR, Prior
from tests.lensllm.predictors import slow_hrb

NAN = float("nan")
SIZES = 200 * 2.0 ** np.arange(8)
TARGETS = np.array([1e5, 1_638_400.0])
# The loss at 1,638,400 and the sd of its logarithm, by another implementation of the method.
OTHERS = {
    ("flan", 3_200): {
        "MBZUAI/LaMini-GPT-124M": (2.22899, 0.16828),
        "facebook/bart-large-cnn": (1.52445, 0.11587),
        "gpt2": (2.26643, 0.15665),
        "google/t5-v1_1-base": (1.57630, 0.15679),
    },
    ("gigaword", 204_800): {
        "MBZUAI/LaMini-GPT-124M": (1.43304, 0.02385),
        "facebook/bart-large-cnn": (1.25140, 0.02936),
        "gpt2": (1.43408, 0.02341),
        "google/t5-v1_1-base": (1.11572, 0.02764),
    },
}


def law(sizes):
    """(4, S) losses of rectified laws."""
    beta, log_D0 = (
        np.array([[0.2], [0.25], [0.35], [0.3]]),
        np.array([[8.0], [10.0], [9.0], [12.0]]),
    )
    floor, top = np.array([[0.4], [0.5], [0.3], [0.45]]), np.array([[4.0], [3.0], [3.5], [5.0]])
    return floor + (top - floor) / (1 + (sizes / np.exp(log_D0)) ** beta)


def curves(losses, sizes=SIZES, **others):
    return Curves(tuple("abcdefgh"[: len(losses)]), sizes, losses[:, :, None], **others)


@pytest.fixture(scope="module")
def plain():
    return Hrb().predict(curves(law(SIZES)), TARGETS)


def assert_same(expected, actual, rtol=1e-9):
    np.testing.assert_allclose(actual.loss, expected.loss, rtol=rtol)
    np.testing.assert_allclose(actual.sd_log, expected.sd_log, rtol=rtol)


# --- against other implementations ----------------------------------------------------------------


@pytest.mark.parametrize(("table", "budget"), OTHERS)
def test_published_tables(table, budget):
    source = tables.read(table)
    known = curves_from_cells(source.cells, "nats_per_token", budget)
    families = tuple(source.cells.groupby("candidate")["family"].first()[list(known.candidates)])
    expected = OTHERS[table, budget]
    rows = [known.candidates.index(name) for name in expected]

    predicted = Hrb().predict(replace(known, families=families), TARGETS[1:])

    loss, sd = np.array(list(expected.values())).T
    np.testing.assert_allclose(np.log(predicted.loss[rows, 0]), np.log(loss), atol=2e-5)
    np.testing.assert_allclose(predicted.sd_log[rows, 0], sd, atol=2e-5)


UNEVEN = np.array([250.0, 400.0, 1000.0, 1500.0, 9000.0])
HOLES = np.array([[1, 1, 1, 1, 1], [NAN] * 5, [1, NAN, 1, 1, NAN], [NAN, 1, NAN, NAN, NAN]])


@pytest.mark.parametrize(
    ("known", "prior", "log_exponents"),
    [
        (curves(law(SIZES[:4])[:3], SIZES[:4]), DEFAULT_PRIOR, None),
        (curves(law(UNEVEN), UNEVEN, families=("x", "y", "", "y")), DEFAULT_PRIOR, None),
        (curves(law(UNEVEN) * HOLES, UNEVEN, families=("x", "x", "y", "x")), DEFAULT_PRIOR, None),
        (curves(law(UNEVEN)[1:3], UNEVEN), Prior((-0.5, 8.0, 0.1), (0.2, 1.0, 0.4)), None),
        (
            curves(law(UNEVEN) * HOLES, UNEVEN, families=("x", "x", "y", "x")),
            DEFAULT_PRIOR,
            np.array([0.3, 5.0, NAN, -0.2]),
        ),
    ],
    ids=["complete", "families", "missing cells", "another prior", "expected exponents"],
)
def test_plain_loops_agree(monkeypatch, known, prior, log_exponents):
    monkeypatch.setattr(hrb, "_MOST_SHAPES", 32)

    predicted = hrb.posterior(known, TARGETS, prior, log_exponents)

    mean, sd = slow_hrb.predict(known, TARGETS, 32, prior, log_exponents)
    np.testing.assert_allclose(np.log(predicted.loss), mean, rtol=1e-6)
    np.testing.assert_allclose(predicted.sd_log, sd, rtol=1e-5)


def test_what_past_curves_teach(monkeypatch):
    """The mean over the kernels of what the candidates share; the built-in prior is as one past."""
    monkeypatch.setattr(hrb, "_MOST_SHAPES", 32)
    past = curves(law(UNEVEN)[:2], UNEVEN, families=("x", "y"))

    learnt = hrb.learn([past])

    pools = [pool for _, pool in slow_hrb.posteriors(past, UNEVEN[-1:], 32, DEFAULT_PRIOR)]
    mean = np.mean([mean for _, mean, _ in pools], axis=0)
    variance = np.mean([variance for _, _, variance in pools], axis=0)
    apart = (mean - DEFAULT_PRIOR.mean) / 2
    np.testing.assert_allclose(learnt.mean, DEFAULT_PRIOR.mean + apart, rtol=1e-6)
    within = (variance + np.square(DEFAULT_PRIOR.sd)) / 2
    np.testing.assert_allclose(learnt.sd, np.sqrt(within + apart**2), rtol=1e-6)


# --- behaviour ------------------------------------------------------------------------------------


def test_laws_are_continued_less_surely_the_farther(plain):
    error = np.abs(np.log(plain.loss / law(TARGETS)))

    assert np.all(error < [0.02, 0.1])
    assert np.all(error < 2 * plain.sd_log)
    near, far = plain.sd_log.T
    assert np.all(far > 2 * near)


@pytest.mark.parametrize("place", [2, 4, 5])
def test_a_jump_is_no_slope_and_an_outlier_no_level(plain, place):
    jumped, outlying = law(SIZES), law(SIZES)
    jumped[1, place:] *= 0.85
    outlying[1, place] *= 0.85

    lower, same = (Hrb().predict(curves(y), TARGETS).loss for y in (jumped, outlying))

    np.testing.assert_allclose(lower[1], 0.85 * plain.loss[1], rtol=5e-3)
    np.testing.assert_allclose(same[1], plain.loss[1], rtol=5e-3)


def test_a_short_curve_borrows_from_the_others():
    """The same two points, beside curves that fall steeply or hardly."""
    steep, shallow = (4.0 * (SIZES / 200) ** -slope for slope in (0.2, 0.03))
    short = np.full(len(SIZES), NAN)
    short[:2] = 3.0, 2.8

    with_steep, with_shallow = (
        Hrb().predict(curves(np.array([short, *[other] * 5])), TARGETS)
        for other in (steep, shallow)
    )

    assert np.all(with_steep.loss[0] < 0.9 * with_shallow.loss[0])
    assert np.all(with_steep.sd_log[0] > 1.5 * with_steep.sd_log[1])


def test_all_targets_at_once(plain):
    one_by_one = [Hrb().predict(curves(law(SIZES)), TARGETS[[t]]) for t in (0, 1)]

    for t, single in enumerate(one_by_one):
        np.testing.assert_allclose(single.loss[:, 0], plain.loss[:, t], rtol=1e-12)
        np.testing.assert_allclose(single.sd_log[:, 0], plain.sd_log[:, t], rtol=1e-9)


def test_the_order_of_the_candidates_does_not_matter():
    straight, order = curves(law(SIZES), families=("x", "y", "", "y")), [2, 0, 3, 1]
    expected = Hrb().predict(straight, TARGETS)

    actual = Hrb().predict(straight.only([straight.candidates[i] for i in order]), TARGETS)

    assert_same(Prediction(expected.loss[order], expected.sd_log[order]), actual)


def test_a_unit_of_the_loss_moves_the_prior_of_the_floor(plain):
    beta, D0, E = DEFAULT_PRIOR.mean
    in_bits = replace(DEFAULT_PRIOR, mean=(beta, D0, E - np.log(np.log(2))))

    actual = Hrb(in_bits).predict(curves(law(SIZES) / np.log(2)), TARGETS)

    np.testing.assert_allclose(actual.loss, plain.loss / np.log(2))
    np.testing.assert_allclose(actual.sd_log, plain.sd_log)


def test_a_prior_learnt_from_its_like_helps_a_short_curve():
    """Five past tables of curves steeper than the built-in prior has them."""
    far = SIZES[-1:] * 8
    slopes = np.array([[0.35], [0.37], [0.39], [0.41]])
    learnt = hrb.learn([curves(4 * (SIZES / 200) ** -slopes)] * 5)
    short = 3 * (SIZES[None, :2] / 200) ** -0.38

    def error(prior):
        predicted = Hrb(prior).predict(curves(short, SIZES[:2]), far).loss
        return abs(np.log(predicted / 3) + 0.38 * np.log(far / 200)).item()

    assert hrb.learn([]) == DEFAULT_PRIOR
    assert error(learnt) < 0.9 * error(DEFAULT_PRIOR)


@pytest.mark.parametrize("place", [0, 2])
def test_a_candidate_without_any_loss_is_not_there_for_the_others(plain, place):
    losses = np.insert(law(SIZES), place, NAN, axis=0)

    predicted = Hrb().predict(curves(losses), TARGETS)

    assert np.isnan([predicted.loss[place], predicted.sd_log[place]]).all()
    np.testing.assert_array_equal(np.delete(predicted.loss, place, axis=0), plain.loss)
    np.testing.assert_array_equal(np.delete(predicted.sd_log, place, axis=0), plain.sd_log)


def test_it_needs_a_finished_cell():
    with pytest.raises(DataError, match="hrb needs 1 finished sizes and the longest curve has 0"):
        Hrb().predict(curves(np.full((2, 8), NAN)), TARGETS)


# --- sizes and memory -----------------------------------------------------------------------------


@given(smallest=st.floats(1, 1e7), times=st.floats(1, 1e6))
def test_the_scale_holds_all_sizes_and_moves_only_where_it_must(smallest, times):
    target = smallest * times
    scale = hrb.Scale.of(smallest, target)
    low, high = scale.offset + scale.width * np.log([200.0, 2e6])

    assert (smallest >= 200 and target <= 2e6) == (scale == hrb.Scale(0.0, 1.0))
    assert low <= np.log(smallest) + 1e-9
    assert high >= np.log(target) - 1e-9
    assert scale.width >= 1 - 1e-9
    moved = scale.moved(DEFAULT_PRIOR)
    assert (moved.mean[1] - low) / (high - low) == pytest.approx((10.5 - np.log(200)) / np.log(1e4))
    assert moved.sd[1] / (high - low) == pytest.approx(2.5 / np.log(1e4))
    assert (moved.mean[::2], moved.sd[::2]) == (DEFAULT_PRIOR.mean[::2], DEFAULT_PRIOR.sd[::2])
    back = scale.usual(np.array(moved.mean), np.array(moved.sd))
    np.testing.assert_allclose(back, [DEFAULT_PRIOR.mean, DEFAULT_PRIOR.sd])


def test_small_sizes_are_like_the_usual_ones(plain):
    tiny = Hrb().predict(curves(law(SIZES), SIZES / 50), TARGETS / 50)

    assert_same(plain, tiny, rtol=1e-7)
    taught = [hrb.learn([curves(law(SIZES), sizes)]) for sizes in (SIZES, SIZES / 50)]
    np.testing.assert_allclose(taught[1].mean, taught[0].mean)
    np.testing.assert_allclose(taught[1].sd, taught[0].sd)


def test_a_large_table_weighs_fewer_shapes(monkeypatch):
    monkeypatch.setattr(hrb, "_WORK", 2**18)
    names = tuple(map(str, range(40)))
    many = Curves(names, SIZES, np.tile(law(SIZES), (10, 1))[:, :, None])

    tracemalloc.start()
    predicted = Hrb().predict(many, TARGETS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 20 * 8 * 2**18  # with 8192 shapes it is seven times as much
    assert np.all(np.abs(np.log(predicted.loss[:4] / law(TARGETS))) < [0.03, 0.15])
