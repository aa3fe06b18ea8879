"""The scripts and the notebook of ``examples/`` run, and their pages of documentation too."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import HANG_SECONDS

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def run(source: list[str], folder: Path) -> str:
    """Run Python in ``folder`` without a screen; its standard output."""
    environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *source],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_are_three_scripts_and_a_notebook() -> None:
    assert len(SCRIPTS) == 3
    assert len(NOTEBOOKS) == 1


def test_a_table_is_ranked_and_scored(tmp_path: Path) -> None:
    printed = run([str(ROOT / "examples" / "rank_a_table.py")], tmp_path)
    assert "RelAcc 1.000, Pearson 0.934" in printed  # as in docs/benchmarks.md


def test_a_curve_is_fitted_and_drawn(tmp_path: Path) -> None:
    printed = run([str(ROOT / "examples" / "plot_a_curve.py")], tmp_path)
    assert "loss at 51,200 examples: 1." in printed
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_pipeline_runs_from_python(tmp_path: Path) -> None:
    printed = run([str(ROOT / "examples" / "run_a_pipeline.py")], tmp_path)
    assert "width-" in printed
    assert (tmp_path / "example" / "artifacts" / "reports" / "script" / "report.html").is_file()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_prints_what_it_shows(path: Path, tmp_path: Path) -> None:
    """Its cells are plain Python, so that they run without Jupyter."""
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    (tmp_path / "cells.py").write_text("\n".join("".join(cell["source"]) for cell in cells))
    outputs = [output for cell in cells for output in cell["outputs"]]
    printed = ["".join(output["text"]) for output in outputs if output["output_type"] == "stream"]
    assert run(["cells.py"], tmp_path) == "".join(printed)
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_python_in_the_pages_runs(page: str, tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.M | re.S)
    assert blocks
    (tmp_path / "page.py").write_text("\n".join(blocks))
    run(["page.py"], tmp_path)
