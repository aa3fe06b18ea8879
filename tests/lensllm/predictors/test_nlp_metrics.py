import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensllm.core.errors import DataError
from lensllm.curves.curve import Curves
from lensllm.predictors import nlp_metrics

TARGETS = np.array([1e3, 1e6])
PREDICTORS = {"pl_alpha": nlp_metrics.pl_alpha, "e_tpl_lambda": nlp_metrics.e_tpl_lambda}


def curves(weight_metrics, last_losses):
    losses = np.asarray(last_losses, dtype=float)
    return Curves(
        tuple(map(str, range(len(losses)))),
        np.array([100.0]),
        losses[:, None, None],
        weight_metrics=weight_metrics,
    )


@pytest.mark.parametrize("name", PREDICTORS)
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
    found = curves({name: exponents / 10}, losses)

    predicted = PREDICTORS[name](found, TARGETS).loss

    for loss in predicted.T:
        np.testing.assert_array_equal(np.argsort(exponents), np.argsort(loss))


def test_each_reads_its_own_metric():
    found = curves(
        {"pl_alpha": np.array([2.0, 3.0]), "e_tpl_lambda": np.array([9.0, 1.0])}, [1.0, 1.0]
    )

    assert nlp_metrics.pl_alpha(found, TARGETS).loss[:, 0].argmin() == 0
    assert nlp_metrics.e_tpl_lambda(found, TARGETS).loss[:, 0].argmin() == 1


def test_a_candidate_without_a_spectrum_is_left_out():
    found = curves({"pl_alpha": np.array([2.0, np.nan, 4.0])}, [1.0, 9.0, np.e])

    expected = np.array([1.0, np.nan, np.e])[:, None] * np.ones(2)
    np.testing.assert_allclose(nlp_metrics.pl_alpha(found, TARGETS).loss, expected)


@pytest.mark.parametrize("name", PREDICTORS)
@pytest.mark.parametrize("exponents", [None, [np.nan, np.nan]])
def test_it_needs_the_spectra(name, exponents):
    metrics = None if exponents is None else {name: np.array(exponents)}
    message = f"{name} needs the pretrained weights' spectra: set heavy_tails.enabled"

    with pytest.raises(DataError, match=message):
        PREDICTORS[name](curves(metrics, [1.0, 2.0]), TARGETS)
