"""The scripts and the notebook of ``examples/`` run, and their pages of documentation too."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client import AsyncKernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
HANGING_SECONDS = 1800


def run(source: list[str], folder: Path) -> str:
    """Run Python in ``folder`` without a screen; its standard output."""
    environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *source],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=HANGING_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_are_three_scripts_and_a_notebook() -> None:
    assert len(SCRIPTS) == 3
    assert len(NOTEBOOKS) == 1


def test_a_table_is_ranked_and_scored(tmp_path: Path) -> None:
    printed = run([str(ROOT / "examples" / "rank_a_table.py")], tmp_path)
    assert re.search(r"RelAcc 0\.9\d\d, Pearson 0\.9\d\d", printed)


def test_a_curve_is_fitted_and_drawn(tmp_path: Path) -> None:
    printed = run([str(ROOT / "examples" / "plot_a_curve.py")], tmp_path)
    assert "loss at 51,200 examples: 1." in printed
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_pipeline_runs_from_python(tmp_path: Path) -> None:
    printed = run([str(ROOT / "examples" / "run_a_pipeline.py")], tmp_path)
    assert "width-" in printed
    assert (tmp_path / "example" / "artifacts" / "reports" / "script" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_gives_the_outputs_that_it_shows(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(path, as_version=4)
    shown = texts(notebook)
    kernel = AsyncKernelManager(kernel_name="python3", transport="ipc")  # no listening port
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, km=kernel, timeout=HANGING_SECONDS, resources=resources).execute()
    assert texts(notebook) == shown


def texts(notebook: nbformat.NotebookNode) -> list[str]:
    """The printed lines and plain-text results of every cell, without those of pictures."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                found.append(output.text)
            elif "image/png" not in output.data:
                found.append(output.data["text/plain"])
    return found


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_python_in_the_pages_runs(page: str, tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.M | re.S)
    assert blocks
    (tmp_path / "page.py").write_text("\n".join(blocks))
    run(["page.py"], tmp_path)
