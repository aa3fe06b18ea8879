import numpy as np
import pytest

from lensllm.core.errors import DataError
from lensllm.curves.curve import Curves
from lensllm.predictors import zero_shot


def curves(losses_at_zero):
    return Curves(("a", "b"), np.array([100.0]), np.ones((2, 1, 1)), zero_shot=losses_at_zero)


def test_it_is_the_pretrained_loss_whatever_the_target():
    before = np.array([3.0, np.nan])

    predicted = zero_shot.predict(curves(before), np.array([100.0, 1e6])).loss

    np.testing.assert_array_equal(predicted, [[3.0, 3.0], [np.nan, np.nan]])


@pytest.mark.parametrize("before", [None, np.array([np.nan, np.nan])])
def test_it_needs_size_zero(before):
    with pytest.raises(DataError, match="add size 0 to the sweep"):
        zero_shot.predict(curves(before), np.array([1e3]))
