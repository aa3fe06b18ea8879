from dataclasses import replace

import pytest

from lensllm.diagnostics.checks.prior_range import find
from lensllm.predictors.hrb import Scale


@pytest.mark.parametrize("smallest", [10.0, 49.0, 50.0, 199.0, 200.0, 5000.0])
@pytest.mark.parametrize("target", [1e6, 2e6, 7.9e6, 8.1e6, 1e9])
def test_it_fires_where_hrb_moves_its_prior_by_more_than_a_factor_of_four(clean, smallest, target):
    curves = clean.curves
    curves = replace(curves, sizes=curves.sizes * smallest / curves.sizes[0])

    found = find(replace(clean, curves=curves, target=target))

    assert bool(found) == (smallest < 50 or target > 8e6)
    assert not found or not Scale.of(smallest, target).is_usual


def test_the_sentence_has_both_ranges(clean):
    (found,) = find(replace(clean, target=3e7))

    assert "from 200 to 30,000,000 are not within 200–2,000,000," in found.message
