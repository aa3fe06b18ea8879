from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensllm.core.errors import DataError
from lensllm.curves.curve import Curves
from lensllm.predictors import baselines

TARGETS = np.array([1e3, 1e6])
WEIGHT_METRICS = {
    name: partial(baselines.by_weight_metric, name) for name in ("pl_alpha", "e_tpl_lambda")
}


# --- zero_shot -------------------------------------------------------------------------------------


def untuned(losses_at_zero):
    return Curves(("a", "b"), np.array([100.0]), np.ones((2, 1, 1)), zero_shot=losses_at_zero)


def test_zero_shot_is_the_pretrained_loss_at_every_target():
    before = np.array([3.0, np.nan])

    predicted = baselines.zero_shot(untuned(before), np.array([100.0, 1e6])).loss

    np.testing.assert_array_equal(predicted, [[3.0, 3.0], [np.nan, np.nan]])


@pytest.mark.parametrize("before", [None, np.array([np.nan, np.nan])])
def test_zero_shot_needs_size_zero(before):
    with pytest.raises(DataError, match="add size 0 to the sweep"):
        baselines.zero_shot(untuned(before), np.array([1e3]))


# --- sub_tuning ------------------------------------------------------------------------------------


def tuned(losses):
    sizes = 100 * 2.0 ** np.arange(losses.shape[1])
    return Curves(("a", "b"), sizes, losses[:, :, None])


def test_sub_tuning_is_the_last_measured_loss_at_every_target():
    losses = np.array([[3.0, 2.0], [4.0, np.nan]])

    predicted = baselines.sub_tuning(tuned(losses), np.array([200.0, 1e6])).loss

    np.testing.assert_array_equal(predicted, [[2.0, 2.0], [4.0, 4.0]])


def test_sub_tuning_needs_a_finished_cell():
    with pytest.raises(DataError, match="sub_tuning needs 1 finished sizes"):
        baselines.sub_tuning(tuned(np.full((2, 2), np.nan)), np.array([1e6]))


# --- model_size ------------------------------------------------------------------------------------


def sized(parameters, last_losses):
    losses = np.asarray(last_losses, dtype=float)
    return Curves(
        tuple(map(str, range(len(losses)))),
        np.array([100.0]),
        losses[:, None, None],
        parameters=None if parameters is None else np.asarray(parameters, dtype=float),
    )


def by_size(parameters, last_losses):
    """(M,) losses, after checking that they are the same at every target."""
    loss = baselines.model_size(sized(parameters, last_losses), TARGETS).loss
    np.testing.assert_array_equal(loss[:, 0], loss[:, 1])
    return loss[:, 0]


@given(
    candidates=st.lists(
        st.tuples(st.integers(1, 10**9), st.floats(0.1, 10)),
        min_size=1,
        max_size=8,
        unique_by=lambda candidate: candidate[0],
    )
)
def test_larger_is_always_predicted_better(candidates):
    parameters, losses = np.array(candidates).T
    loss = by_size(parameters, losses)

    apart = parameters > 1.5 * parameters[:, None]  # row smaller than column
    assert np.all((loss < loss[:, None])[apart])


def test_where_larger_is_better_it_is_the_regression():
    parameters = np.array([1e6, 1e7, 1e8])
    losses = 50 * parameters**-0.1

    np.testing.assert_allclose(by_size(parameters, losses), losses)


def test_where_larger_is_worse_all_are_predicted_at_the_geometric_mean():
    loss = by_size([1e6, 1e8], [1.0, 4.0])

    np.testing.assert_allclose(loss, [2.0, 2.0], rtol=1e-5)
    assert loss[1] < loss[0]


def test_a_candidate_without_parameters_is_left_out():
    np.testing.assert_allclose(by_size([1e6, np.nan, 1e8], [4.0, 9.0, 1.0]), [4.0, np.nan, 1.0])


@pytest.mark.parametrize("parameters", [None, [np.nan, np.nan]])
def test_model_size_needs_parameters(parameters):
    with pytest.raises(DataError, match="model_size needs the candidates' numbers of parameters"):
        baselines.model_size(sized(parameters, [1.0, 2.0]), TARGETS)


def test_it_needs_a_finished_cell_of_a_candidate_with_parameters():
    with pytest.raises(DataError, match="model_size is known of no candidate with a finished cell"):
        baselines.model_size(sized([1e6, np.nan], [np.nan, 2.0]), TARGETS)


# --- metrics of the weights ------------------------------------------------------------------------


def weighed(weight_metrics, last_losses):
    losses = np.asarray(last_losses, dtype=float)
    return Curves(
        tuple(map(str, range(len(losses)))),
        np.array([100.0]),
        losses[:, None, None],
        weight_metrics=weight_metrics,
    )


@pytest.mark.parametrize("name", WEIGHT_METRICS)
@given(
    candidates=st.lists(
        st.tuples(st.integers(1, 200), st.floats(0.1, 10)),
        min_size=1,
        max_size=8,
        unique_by=lambda candidate: candidate[0],
    )
)
def test_the_heavier_tail_is_always_predicted_better(name, candidates):
    exponents, losses = np.array(candidates).T
    found = weighed({name: exponents / 10}, losses)

    predicted = WEIGHT_METRICS[name](found, TARGETS).loss

    for loss in predicted.T:
        np.testing.assert_array_equal(np.argsort(exponents), np.argsort(loss))


def test_each_reads_its_own_metric():
    found = weighed(
        {"pl_alpha": np.array([2.0, 3.0]), "e_tpl_lambda": np.array([9.0, 1.0])}, [1.0, 1.0]
    )

    assert WEIGHT_METRICS["pl_alpha"](found, TARGETS).loss[:, 0].argmin() == 0
    assert WEIGHT_METRICS["e_tpl_lambda"](found, TARGETS).loss[:, 0].argmin() == 1


def test_a_candidate_without_a_spectrum_is_left_out():
    found = weighed({"pl_alpha": np.array([2.0, np.nan, 4.0])}, [1.0, 9.0, np.e])

    expected = np.array([1.0, np.nan, np.e])[:, None] * np.ones(2)
    np.testing.assert_allclose(WEIGHT_METRICS["pl_alpha"](found, TARGETS).loss, expected)


@pytest.mark.parametrize("name", WEIGHT_METRICS)
@pytest.mark.parametrize("exponents", [None, [np.nan, np.nan]])
def test_a_weight_metric_needs_the_spectra(name, exponents):
    metrics = None if exponents is None else {name: np.array(exponents)}
    message = f"{name} needs the pretrained weights' spectra: set heavy_tails.enabled"

    with pytest.raises(DataError, match=message):
        WEIGHT_METRICS[name](weighed(metrics, [1.0, 2.0]), TARGETS)
