import numpy as np
import pytest

from lensllm.core.errors import DataError
from lensllm.curves.curve import Curves
from lensllm.predictors import sub_tuning


def curves(losses):
    sizes = 100 * 2.0 ** np.arange(losses.shape[1])
    return Curves(("a", "b"), sizes, losses[:, :, None])


def test_it_is_the_last_measured_loss_whatever_the_target():
    losses = np.array([[3.0, 2.0], [4.0, np.nan]])

    predicted = sub_tuning.predict(curves(losses), np.array([200.0, 1e6])).loss

    np.testing.assert_array_equal(predicted, [[2.0, 2.0], [4.0, 4.0]])


def test_it_needs_a_finished_cell():
    with pytest.raises(DataError, match="sub_tuning needs 1 finished sizes"):
        sub_tuning.predict(curves(np.full((2, 2), np.nan)), np.array([1e6]))
