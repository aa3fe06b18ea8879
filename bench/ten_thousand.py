"""The command around 10,000 cells: what it holds in memory, and how long it takes to do nothing.

    python -m bench ten_thousand

The sweep of ``tests/stress.py`` with 50 candidates, 10 sizes and 20 seeds, trained once and then
run again; some twenty minutes on two idle cores.
"""

import tempfile
from pathlib import Path

from bench.platform import COLUMNS, nothing_to_do, row, run
from bench.timing import markdown
from tests import stress

CANDIDATES, SIZES, SEEDS = 50, 10, 20


def table() -> str:
    cells = CANDIDATES * SIZES * SEEDS
    with tempfile.TemporaryDirectory() as name:
        file = stress.write_pipeline(Path(name), CANDIDATES, SIZES, SEEDS)
        artifacts = Path(name) / "artifacts"
        first = run(artifacts, stress.NAME, "--file", str(file))
        again = nothing_to_do(file, artifacts, rounds=1)
    return markdown(
        "A run of 10,000 cells that trains, then once more with nothing to do",
        COLUMNS,
        [row("that trains", cells, [first]), row("nothing to do", cells, again)],
    )
