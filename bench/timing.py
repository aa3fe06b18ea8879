"""Interleaved timing: A B A B …, so that drift of the machine hits both alike."""

import statistics
import time
from collections.abc import Callable, Mapping


def medians(ways: Mapping[str, Callable[[], object]], repeats: int = 5) -> dict[str, float]:
    """Median seconds of each way over ``repeats`` interleaved runs, after one warm-up each."""
    for way in ways.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def markdown(title: str, columns: list[str], rows: list[list[str]]) -> str:
    """A table a document can hold."""
    lines = [f"\n### {title}", " | ".join(["", *columns, ""]).strip()]
    lines.append("|".join(["", *("---" for _ in columns), ""]))
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)
