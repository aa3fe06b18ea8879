"""The cost model against what the cells took."""

from dataclasses import replace

import pytest

from lensllm.report import page
from lensllm.report.forecast_tables import forecasts


def test_a_line_per_candidate_and_their_sum(data):
    *lines, total = forecasts(data)
    assert [line.candidate for line in lines] == data.candidates[: len(lines)]
    assert total.cells == data.forecast["cells"].sum()
    assert total.seconds_ratio == pytest.approx(
        data.forecast["seconds"].sum() / data.forecast["predicted_seconds"].sum()
    )
    assert total.memory == data.forecast["peak_memory_bytes"].max()
    assert total.flops == pytest.approx(data.forecast["flops"].sum())


def test_only_who_was_probed_is_listed(data):
    one = replace(data, forecast=data.forecast.iloc[:1])
    assert len(forecasts(one)) == 2
    assert forecasts(replace(data, forecast=data.forecast.iloc[:0])) == []


def test_without_a_probe_the_page_has_no_such_table(replayed, data):
    """The tests of the whole page render one with it."""
    assert "Predicted against actual" not in page.render(replayed(data))
