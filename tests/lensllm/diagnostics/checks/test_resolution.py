from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lensllm.diagnostics.checks.resolution import find


def with_width(clean, widths, predicted=(1.0, 1.1, 1.2)):
    """Intervals of these widths in log loss, in an odd place around the predictions."""
    predicted, widths = np.array(predicted), np.array(widths)
    rows = {
        "candidate": list("abc")[: len(predicted)],
        "predicted": predicted,
        "low": predicted * np.exp(-0.2 * widths),
        "high": predicted * np.exp(0.8 * widths),
    }
    return replace(clean, predictions=pd.DataFrame(rows).assign(p_best=0.3))


@pytest.mark.parametrize(("width", "fires"), [(np.log(1.19), False), (np.log(1.21), True)])
def test_the_median_width_against_the_range(clean, width, fires):
    assert fires == bool(find(with_width(clean, [0.01, width, 9.0])))


def test_the_sentence_has_both_numbers(clean):
    (found,) = find(with_width(clean, [np.log(1.3)] * 3))

    assert "within 20.0 % of each other and the median 80 % interval spans 30.0 %," in found.message


def test_candidates_without_a_prediction_do_not_count(clean):
    narrow = with_width(clean, [0.1] * 3, predicted=(1.0, 1.2, np.nan))

    assert find(narrow) == []


def test_one_prediction_is_no_ranking(clean):
    assert find(with_width(clean, [9.0], predicted=(1.0,))) == []
