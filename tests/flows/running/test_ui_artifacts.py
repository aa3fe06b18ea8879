"""What stands below the progress bar of the Prefect page, and what links lead to."""

from pathlib import Path

import pytest

from flows.running.terminal import Tally
from flows.running.ui_artifacts import cells_table, sentence
from flows.server.prefect_server import reports_address
from lensllm.store.artifacts import Recipe
from tasks.base.step import Step


def cell(candidate: str, size: int, stage: str = "finetune") -> Step:
    recipe = Recipe(stage, 1, {"size": size, "candidate": candidate})
    return Step(f"{stage} {candidate} · D={size}", recipe, {"candidate": candidate})


def test_cells_are_counted_by_candidate() -> None:
    assert cells_table([]) == ""
    cells = [("a", "done"), ("a", "to come"), ("c", "failed"), ("c", "to come")]
    assert cells_table(cells).splitlines() == [
        "| cells of | done | failed | to come |",
        "| --- | ---: | ---: | ---: |",
        "| a | 1 | 0 | 1 |",
        "| c | 0 | 1 | 1 |",
    ]


def test_the_sentence_counts_and_says_what_is_left() -> None:
    tally, steps = Tally(), [cell("a", size) for size in (1, 2, 3, 4)]
    tally.plan(steps)
    tally.change(steps[0], "done", 30.0)
    tally.change(steps[1], "cached")
    assert sentence(tally, 2) == "2 of 4 artefacts: 1 computed, 1 cached; about 0:30 left"
    tally.change(steps[2], "failed")
    tally.change(steps[3], "skipped")
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
