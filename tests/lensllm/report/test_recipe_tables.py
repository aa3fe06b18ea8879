"""Learning rates chosen, and candidates that were trained otherwise."""

from dataclasses import replace

import numpy as np
import pandas as pd

from lensllm.report import page, recipe_tables
from lensllm.report.data import ReportData


def _rates(chosen: float, losses: dict[float, float]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "learning_rate": list(losses),
            "size": 100,
            "validation_nats_per_token": list(losses.values()),
            "best_epoch": 2,
            "seconds": 1.0,
            "chosen": [rate == chosen for rate in losses],
        }
    )


def test_choices_say_what_was_tried_and_where_the_edge_is(data: ReportData):
    first, second, third = data.candidates[:3]
    rates = {
        first: _rates(2e-3, {1e-3: 2.0, 2e-3: 1.9, 4e-3: np.inf}),
        second: _rates(4e-3, {1e-3: 2.0, 2e-3: 1.9, 4e-3: 1.8}),
        third: _rates(1e-3, {1e-3: 1.0, 2e-3: 1.9, 4e-3: 1.8}),
    }
    data = replace(data, rates=rates)
    found = recipe_tables.choices(data)
    assert {row.candidate: (row.rate, row.edge) for row in found} == {
        first: (2e-3, ""),
        second: (4e-3, "largest"),
        third: (1e-3, "smallest"),
    }
    text = page.render(data)
    assert "the largest tried" in text
    assert "0.004: diverges" in text
    assert 'href="#recipes"' in text


def test_a_page_without_choices_has_no_such_section(data: ReportData):
    assert 'id="recipes"' not in page.render(data)


def test_who_trains_longer_is_named():
    config = {
        "finetune": {"epochs": 3, "batch_size": 16, "learning_rate": 1e-3},
        "candidates": [
            {"name": "a", "finetune": {}},
            {"name": "b", "finetune": {"learning_rate": 1e-4, "epochs": 3}},
            {"name": "c", "finetune": {"epochs": 5, "batch_size": 8}},
        ],
    }
    assert recipe_tables.unequal(config) == [
        "c is trained with epochs 5 instead of 3 and batch_size 8 instead of 16."
    ]
    assert recipe_tables.unequal({}) == []
