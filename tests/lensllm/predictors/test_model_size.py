import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensllm.core.errors import DataError
from lensllm.curves.curve import Curves
from lensllm.predictors import model_size

TARGETS = np.array([1e3, 1e6])


def curves(parameters, last_losses):
    losses = np.asarray(last_losses, dtype=float)
    return Curves(
        tuple(map(str, range(len(losses)))),
        np.array([100.0]),
        losses[:, None, None],
        parameters=None if parameters is None else np.asarray(parameters, dtype=float),
    )


def predicted(parameters, last_losses):
    """(M,) losses, after checking that they are the same at every target."""
    loss = model_size.predict(curves(parameters, last_losses), TARGETS).loss
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
    loss = predicted(parameters, losses)

    apart = parameters > 1.5 * parameters[:, None]  # row smaller than column
    assert np.all((loss < loss[:, None])[apart])


def test_where_larger_is_better_it_is_the_regression():
    parameters = np.array([1e6, 1e7, 1e8])
    losses = 50 * parameters**-0.1

    np.testing.assert_allclose(predicted(parameters, losses), losses)


def test_where_larger_is_worse_all_are_predicted_at_the_geometric_mean():
    loss = predicted([1e6, 1e8], [1.0, 4.0])

    np.testing.assert_allclose(loss, [2.0, 2.0], rtol=1e-5)
    assert loss[1] < loss[0]


def test_a_candidate_without_parameters_is_left_out():
    np.testing.assert_allclose(predicted([1e6, np.nan, 1e8], [4.0, 9.0, 1.0]), [4.0, np.nan, 1.0])


@pytest.mark.parametrize("parameters", [None, [np.nan, np.nan]])
def test_it_needs_parameters(parameters):
    with pytest.raises(DataError, match="model_size needs the candidates' numbers of parameters"):
        model_size.predict(curves(parameters, [1.0, 2.0]), TARGETS)


def test_it_needs_a_finished_cell_of_a_candidate_with_parameters():
    with pytest.raises(DataError, match="model_size is known of no candidate with a finished cell"):
        model_size.predict(curves([1e6, np.nan], [np.nan, 2.0]), TARGETS)
