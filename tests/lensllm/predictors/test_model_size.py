import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensllm.curves import Curves
from lensllm.errors import DataError
from lensllm.predictors import model_size


def curves(parameters, last_losses):
    losses = np.asarray(last_losses, dtype=float)
    return Curves(
        tuple(map(str, range(len(losses)))),
        np.array([100.0]),
        losses[:, None, None],
        parameters=None if parameters is None else np.asarray(parameters, dtype=float),
    )


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
    predicted = model_size.predict(curves(parameters, losses), 1e6).loss

    apart = parameters > 1.5 * parameters[:, None]  # row smaller than column
    assert np.all((predicted < predicted[:, None])[apart])


def test_where_larger_is_better_it_is_the_regression():
    parameters = np.array([1e6, 1e7, 1e8])

    predicted = model_size.predict(curves(parameters, 50 * parameters**-0.1), 1e6).loss

    np.testing.assert_allclose(predicted, 50 * parameters**-0.1)


def test_where_larger_is_worse_all_are_predicted_at_the_geometric_mean():
    predicted = model_size.predict(curves([1e6, 1e8], [1.0, 4.0]), 1e6).loss

    np.testing.assert_allclose(predicted, [2.0, 2.0], rtol=1e-5)
    assert predicted[1] < predicted[0]


def test_a_candidate_without_parameters_is_left_out():
    predicted = model_size.predict(curves([1e6, np.nan, 1e8], [4.0, 9.0, 1.0]), 1e6).loss

    np.testing.assert_allclose(predicted, [4.0, np.nan, 1.0])


@pytest.mark.parametrize("parameters", [None, [np.nan, np.nan]])
def test_it_needs_parameters(parameters):
    with pytest.raises(DataError, match="model_size needs the candidates' numbers of parameters"):
        model_size.predict(curves(parameters, [1.0, 2.0]), 1e6)
