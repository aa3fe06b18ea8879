"""The rows of the table that holds the cost model against what the cells took."""

from __future__ import annotations

from dataclasses import dataclass

from lensllm.report.data import ReportData
from lensllm.report.tables import records


@dataclass(frozen=True)
class Forecast:
    """What was predicted of one candidate's cells, and what they took."""

    candidate: str
    cells: int
    predicted_seconds: float
    seconds: float
    predicted_flops: float
    flops: float
    predicted_memory: float  # bytes, the peak
    memory: float

    @property
    def seconds_ratio(self) -> float:
        """Measured over predicted."""
        return self.seconds / self.predicted_seconds


def forecasts(data: ReportData) -> list[Forecast]:
    """A line per candidate that was probed, in the order of the ranking, and one of all; none where
    no candidate was."""
    rows = {row["candidate"]: row for row in records(data.forecast)}
    lines = [
        Forecast(
            candidate=name,
            cells=int(rows[name]["cells"]),
            predicted_seconds=rows[name]["predicted_seconds"],
            seconds=rows[name]["seconds"],
            predicted_flops=rows[name]["predicted_flops"],
            flops=rows[name]["flops"],
            predicted_memory=rows[name]["predicted_peak_memory_bytes"],
            memory=rows[name]["peak_memory_bytes"],
        )
        for name in data.candidates
        if name in rows
    ]
    return [*lines, _total(lines)] if lines else []


def _total(lines: list[Forecast]) -> Forecast:
    """Sums, and the largest peaks."""
    return Forecast(
        candidate="all candidates",
        cells=sum(line.cells for line in lines),
        predicted_seconds=sum(line.predicted_seconds for line in lines),
        seconds=sum(line.seconds for line in lines),
        predicted_flops=sum(line.predicted_flops for line in lines),
        flops=sum(line.flops for line in lines),
        predicted_memory=max(line.predicted_memory for line in lines),
        memory=max(line.memory for line in lines),
    )
