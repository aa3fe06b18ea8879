from dataclasses import replace

import numpy as np

from lensllm.diagnostics.checks.exceeded import find


def test_of_the_cells_above_their_bound_the_worst_is_named(clean):
    """Single cells: an average would hide them."""
    bounds = clean.bounds.copy()
    mine = bounds.index[bounds["candidate"] == "a"]
    bounds.loc[mine[:2], "test_nats_per_token"] = 5.0, 6.25  # two seeds at 200, the bound 4.5

    (found,) = find(replace(clean, bounds=bounds))

    assert "a (6.25 against 4.50 at 200);" in found.message


def test_at_the_bound_is_not_above_it(clean):
    even = clean.bounds.assign(test_nats_per_token=clean.bounds["bound"])

    assert find(replace(clean, bounds=even)) == []


def test_a_loss_that_is_not_known_is_passed_over(clean):
    assert find(replace(clean, bounds=clean.bounds.assign(test_nats_per_token=np.nan))) == []
