"""The rows about cost and the settings of training."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lensllm.report import diagnostic_tables, page
from lensllm.report.diagnostic_tables import forecasts
from lensllm.report.result import Result


def test_a_line_per_candidate_and_their_sum(data):
    *lines, total = forecasts(data)
    assert [line["candidate"] for line in lines] == data.candidates[: len(lines)]
    assert total["cells"] == data.forecast["cells"].sum()
    assert total["seconds_ratio"] == pytest.approx(
        data.forecast["seconds"].sum() / data.forecast["predicted_seconds"].sum()
    )
    assert total["peak_memory_bytes"] == data.forecast["peak_memory_bytes"].max()
    assert total["flops"] == pytest.approx(data.forecast["flops"].sum())


def test_only_who_was_probed_is_listed(data):
    one = replace(data, forecast=data.forecast.iloc[:1])
    assert len(forecasts(one)) == 2
    assert forecasts(replace(data, forecast=data.forecast.iloc[:0])) == []


def test_without_a_probe_the_page_has_no_such_table(replayed, data):
    """The tests of the whole page render one with it."""
    assert "Predicted against actual" not in page.render(replayed(data))


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


def test_choices_say_what_was_tried_and_where_the_edge_is(data: Result):
    first, second, third = data.candidates[:3]
    rates = {
        first: _rates(2e-3, {1e-3: 2.0, 2e-3: 1.9, 4e-3: np.inf}),
        second: _rates(4e-3, {1e-3: 2.0, 2e-3: 1.9, 4e-3: 1.8}),
        third: _rates(1e-3, {1e-3: 1.0, 2e-3: 1.9, 4e-3: 1.8}),
    }
    data = replace(data, learning_rates=rates)
    found = diagnostic_tables.learning_rates(data)
    assert {row["candidate"]: (row["rate"], row["edge"]) for row in found} == {
        first: (2e-3, ""),
        second: (4e-3, "largest"),
        third: (1e-3, "smallest"),
    }
    text = page.render(data)
    assert "the largest tried" in text
    assert "0.004: diverges" in text
    assert 'href="#recipes"' in text


def test_a_page_without_choices_has_no_such_section(data: Result):
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
    assert diagnostic_tables.unequal(config) == [
        "c is trained with epochs 5 instead of 3 and batch_size 8 instead of 16."
    ]
    assert diagnostic_tables.unequal({}) == []
