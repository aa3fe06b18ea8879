"""The bound's terms by hand."""

import pytest

from lensllm.hessian.bound import bound_terms


def test_terms_by_hand():
    terms = bound_terms(2.0, 4.0, [1.0, 9.0, 0.0], subset_size=16, epsilon=0.5)
    assert terms.train_term == 3.0
    assert terms.curvature_term == 1.5 / 4 * (2 + 6)
    assert terms.bound == 6.0


def test_without_curvature_only_the_training_loss_is_left():
    terms = bound_terms(2.0, 4.0, [], subset_size=16, epsilon=0.1)
    assert terms.curvature_term == 0.0
    assert terms.bound == terms.train_term == pytest.approx(2.2)
