"""A pipeline in one process: what it makes, finds again, and does without."""

from __future__ import annotations

from pathlib import Path

import pytest

from lensllm.config.sections import Pipeline
from lensllm.core.errors import LensError, ModelError
from lensllm.store.artifacts import Store
from tasks.execution import in_process
from tasks.execution.in_process import run_in_process
from tests.tasks.project import changed, write_inputs


@pytest.fixture
def config(tmp_path: Path) -> Pipeline:
    whole = write_inputs(tmp_path)
    sections = {"kernel": {"enabled": False}, "curvature": {"sizes": []}}
    return changed(whole, **sections, heavy_tails={"enabled": False})


def test_a_second_run_makes_nothing(
    config: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "artifacts")
    store.prepare()
    ranking = run_in_process("tiny", config, store)
    assert store.has(ranking.ref("report"))
    made = []
    monkeypatch.setattr(in_process, "make", lambda root, recipe, hints: made.append(recipe))
    again = run_in_process("tiny", config, store)
    assert again.ref("report") == ranking.ref("report")
    assert made == []


def test_a_failed_cell_is_named_and_the_others_are_ranked(
    config: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "artifacts")
    store.prepare()
    make = in_process.make

    def broken(root, recipe, hints):
        if (
            recipe.stage == "finetune"
            and hints["candidate"] == "wide"
            and recipe.params["size"] == 8
        ):
            raise ModelError("the weights are lost")
        return make(root, recipe, hints)

    monkeypatch.setattr(in_process, "make", broken)
    ranking = run_in_process("tiny", config, store)
    cells = store.table(ranking.ref("curve"), "cells")
    assert 8 not in set(cells.loc[cells["candidate"] == "wide", "size"])
    assert 8 in set(cells.loc[cells["candidate"] == "narrow", "size"])
    (failed,) = ranking["report"][""].recipe.params["failed"]
    assert "wide" in failed[0]
    assert failed[1] == "the weights are lost"


def test_without_any_cell_the_first_failure_is_raised(
    config: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "artifacts")
    store.prepare()
    make = in_process.make

    def broken(root, recipe, hints):
        if recipe.stage == "tokens":
            raise ModelError("no tokenizer")
        return make(root, recipe, hints)

    monkeypatch.setattr(in_process, "make", broken)
    with pytest.raises(LensError, match=r"tokenise for .*: no tokenizer"):
        run_in_process("tiny", config, store)
