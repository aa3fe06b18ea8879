"""The rows of the sweep's table."""

import math
from dataclasses import replace

import pandas as pd
import pytest

from lensllm.report import sweep_tables


def test_rounds_count_who_was_in_and_who_went_out(data, raced):
    """Six, then the four that were left."""
    rounds = [(r.budget, r.racing, r.dropped) for r in sweep_tables.rounds(raced(data))]
    assert rounds == [(400, 6, 2), (1600, 4, 1)]


def test_racers_stand_in_the_order_in_which_they_lasted(data, raced):
    """Those that stayed first, by their last chance; then whoever was dropped last."""
    racers = sweep_tables.racers(raced(data))
    assert data.candidates == [racer.candidate for racer in racers]
    assert [racer.dropped for racer in racers] == [None, None, None, 1600, 400, 400]
    assert racers[0].chances == (0.5, 0.5)
    assert racers[0].reason == ""
    assert racers[-1].reason == "P(best) is 1.2%"
    assert pytest.approx(0.5 / 6) == racers[-1].chances[0]
    assert math.isnan(racers[-1].chances[1])


def test_why_it_stopped(data, raced):
    """Nothing is said of a sweep that ended with its largest size."""
    assert "" == sweep_tables.stop(raced(data)) == sweep_tables.stop(data)
    assert sweep_tables.stop(raced(data, stop="one is left")) == "one is left"


def test_a_sweep_without_decisions_has_no_rows(data):
    """Every candidate got every size."""
    assert [] == sweep_tables.rounds(data) == sweep_tables.racers(data)


def test_saved_is_what_was_not_spent(data):
    """Of the examples of fine-tuning every candidate on the target; unknown without a simulation."""
    assert math.isnan(sweep_tables.saved(data))
    examples = pd.DataFrame({"spent_examples": [250.0], "full_examples": [1000.0]})
    assert sweep_tables.saved(replace(data, examples=examples)) == 0.75
