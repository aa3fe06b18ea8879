"""What stands below the progress bar of the Prefect page, and what links lead to."""

from pathlib import Path

import pytest

from flows.running.progress import Tally
from flows.running.ui_artifacts import Cells, sentence
from flows.server.prefect_server import reports_address
from lensllm.store.artifacts import Recipe
from tasks.base.step import Step


def cell(candidate: str, size: int, stage: str = "finetune") -> Step:
    recipe = Recipe(stage, 1, {"size": size, "candidate": candidate})
    return Step(f"{stage} {candidate} · D={size}", recipe, {"candidate": candidate})


def test_cells_are_counted_by_candidate() -> None:
    cells = Cells()
    assert cells.markdown == ""
    steps = [cell(name, size) for name in ("a", "c") for size in (1, 2)]
    cells.count([*steps, cell("c", 0, "kernel")], "to come")
    cells.move(steps[0], "running")
    cells.move(steps[0], "done")
    cells.move(steps[2], "failed")
    cells.move(cell("c", 0, "kernel"), "done")
    assert cells.markdown.splitlines() == [
        "| cells of | done | failed | to come |",
        "| --- | ---: | ---: | ---: |",
        "| a | 1 | 0 | 1 |",
        "| c | 0 | 1 | 1 |",
    ]


def test_the_sentence_counts_and_says_what_is_left() -> None:
    tally, steps = Tally(), [cell("a", size) for size in (1, 2, 3, 4)]
    tally.plan(steps)
    tally.finish(steps[0], 30.0, cached=False)
    tally.finish(steps[1], 0.0, cached=True)
    assert sentence(tally, 2) == "2 of 4 artefacts: 1 computed, 1 cached; about 0:30 left"
    tally.settle(steps[2], tally.failed)
    tally.settle(steps[3], tally.skipped)
    assert sentence(tally, 2) == "4 of 4 artefacts: 1 computed, 1 cached, 1 failed, 1 skipped"


def test_a_report_has_an_address_on_the_embedded_server_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "reports" / "mine" / "report.html"
    assert reports_address(tmp_path, page) is None
    (tmp_path / "prefect").mkdir()
    note = '{"url": "http://127.0.0.1:4200/api", "pid": 1, "start": 0.0}'
    (tmp_path / "prefect" / "server.json").write_text(note)
    assert reports_address(tmp_path, page) is None
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    assert reports_address(tmp_path, page) == "/reports/mine/report.html"
