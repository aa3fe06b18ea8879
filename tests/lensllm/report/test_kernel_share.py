"""What the kernel contributed, in numbers."""

from dataclasses import replace

import pandas as pd
import pytest

from lensllm.report import kernel_share


def _predicting(data, **losses):
    """``data`` with the predictions of some predictors, losses by candidate, in its order."""
    like = data.ranking.iloc[0]
    rows = [
        {**like, "predictor": predictor, "candidate": name, "predicted": loss}
        for predictor, values in losses.items()
        for name, loss in zip(data.candidates, values, strict=False)
    ]
    kept = data.all_predictions[~data.all_predictions["predictor"].isin(losses)]
    return replace(data, all_predictions=pd.concat([kept, pd.DataFrame(rows)]))


def test_a_law_is_compared_with_the_same_without_a_kernel(data):
    found = kernel_share.contributions(
        _predicting(data, rectified=[1.0, 2.0, 3.0], lensllm=[2.1, 2.0, 3.3])
    )
    (row,) = [row for row in found if row.predictor == "lensllm"]
    first, second, _ = data.candidates[:3]
    assert row.moved == pytest.approx(1.1)
    assert (row.reordered, row.pairs) == (1, 3)
    assert (row.choice, row.other_choice) == (second, first)


def test_without_the_rectified_law_there_is_nothing_to_compare(data):
    kept = data.all_predictions[data.all_predictions["predictor"] != "rectified"]
    assert kernel_share.contributions(replace(data, all_predictions=kept)) == []


def test_predictors_that_read_the_kernel(data):
    assert kernel_share.reads_kernel("lensllm_pooled")
    assert not kernel_share.reads_kernel("stack")
