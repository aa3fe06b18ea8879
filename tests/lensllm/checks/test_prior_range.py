from dataclasses import replace

import pytest

from lensllm.checks.prior_range import find
from lensllm.predictors.hrb import Scale


@pytest.mark.parametrize("smallest", [100.0, 199.0, 200.0, 5000.0])
@pytest.mark.parametrize("target", [1e6, 2e6, 2.1e6, 1e9])
def test_it_fires_where_hrb_rescales(clean, smallest, target):
    curves = clean.curves
    curves = replace(curves, sizes=curves.sizes * smallest / curves.sizes[0])

    found = find(replace(clean, curves=curves, target=target))

    assert bool(found) != Scale.of(smallest, target).is_usual


def test_the_sentence_has_both_ranges(clean):
    (found,) = find(replace(clean, target=3e6))

    assert "from 200 to 3,000,000 are not within 200–2,000,000," in found.message
