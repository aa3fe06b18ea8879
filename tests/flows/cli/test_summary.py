"""What commands tell of artefacts that are there: JSON without gaps, screens, the grid of cells."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console

from flows.cli import screens
from flows.cli.status import grid, screen
from flows.cli.summary import Summary, as_left, garbage, reread, summarise
from flows.running.ending import Outcome
from flows.running.terminal import Tally
from lensllm.config import configfile
from lensllm.config.sections import Pipeline
from lensllm.core.errors import LensError
from lensllm.diagnostics.checks.check import fold
from lensllm.report.reading import read_report
from lensllm.store.artifacts import Recipe, Store
from tasks.planning import replay
from tasks.planning.plan import make_plan, plan_ranking
from tasks.stages import losses
from tests.tasks import project

SCORES = (
    *("budget", "target", "predictor", "pearson", "spearman", "kendall", "rel_acc", "rmse_log"),
    *("coverage_80", "p_best_log_score"),
)
CANDIDATES = ("candidate", "budget", "predictor", "predicted", "low", "high", "p_best")


def shown(drawn: object, width: int = 110) -> str:
    """As a terminal of ``width`` columns shows it, on one line."""
    console = Console(file=io.StringIO(), width=width)
    console.print(drawn)
    return " ".join(console.file.getvalue().split())


def strict(content: object) -> Any:
    """There and back through JSON that knows neither NaN nor infinity."""
    return json.loads(json.dumps(content, allow_nan=False))


# --- a replayed table -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five candidates at nine sizes; one that failed twice, one known at small sizes only."""
    draw = np.random.default_rng(0)
    sizes = 100 * 2 ** np.arange(9)
    level, slope = np.linspace(2.0, 3.0, 5)[:, None], np.linspace(0.15, 0.02, 5)[:, None]
    found = level * (sizes / sizes[-1]) ** -slope * np.exp(0.003 * draw.standard_normal((5, 9)))
    found[1, [2, 4]] = np.nan
    found[4, 2:] = np.nan
    path = tmp_path_factory.mktemp("table") / "mine.csv"
    pd.DataFrame(found, index=list("abcde"), columns=sizes).to_csv(path, index_label="model")
    return path


def summary(table: Path, **options: Any) -> Summary:
    asked = configfile.replay({"table": str(table), **options})
    store = Store(table.with_name("artifacts"))
    store.prepare()
    replay.check(asked, store)
    ref = losses.step(asked.table).ref
    ending = replay.plan_ranking(replay.goal(asked, store, ref), store, ref)
    project.make_all(store, ending.steps)
    result = read_report(store, ending.ref("report"))
    return summarise(Outcome(result, store.root / "reports" / "mine"), Tally())


def test_a_replays_json_has_what_others_compute_with(table: Path):
    said = strict(summary(table, all_budgets=True).as_replay)
    budgets = {1600, 3200}
    assert {SCORES} == {tuple(row) for row in said["scores"]}
    assert {CANDIDATES} == {tuple(row) for row in said["candidates"]}
    assert budgets == {row["budget"] for row in said["scores"]}
    assert budgets == {row["budget"] for row in said["candidates"]}
    assert {25_600} == {row["target"] for row in said["scores"]} | {said["target"]}
    predictors = {row["predictor"] for row in said["scores"]}
    assert {"ats", "hrb", "stack", "rectified", "vanilla", "sub_tuning"} <= predictors
    for name in predictors:
        rows = [r for r in said["candidates"] if (r["predictor"], r["budget"]) == (name, 3200)]
        assert set("abcde") == {row["candidate"] for row in rows}
        assert sum(row["p_best"] for row in rows) == pytest.approx(1)
    assert said["choice"] == "a"
    assert (said["saved"], said["decisions"]) == (None, [])


def test_what_is_not_known_is_null(table: Path):
    said = strict(summary(table, all_budgets=True).as_replay)
    ats = {row["candidate"]: row for row in said["candidates"] if row["predictor"] == "ats"}
    assert (ats["e"]["predicted"], ats["e"]["low"], ats["e"]["high"]) == (None, None, None)
    assert ats["b"]["predicted"] > 0
    assert ats["e"]["p_best"] < ats["b"]["p_best"]


def test_a_policys_json_says_what_was_saved_and_who_was_dropped(table: Path):
    found = summary(table, policy="halving", budget=12_800)
    said = strict(found.as_replay)
    spent, full = found.result.simulated_cost.iloc[0]
    assert full == 5 * 25_600
    assert said["saved"] == pytest.approx(1 - spent / full)
    assert {row["candidate"] for row in said["decisions"] if row["dropped"]} >= {"d", "e"}
    assert said["decisions"][-1]["stop"] == "one candidate is left"


@pytest.mark.parametrize("width", [60, 110])
def test_the_screen_of_a_replay(table: Path, width: int):
    said = shown(screens.ranking(summary(table), width), width)
    assert "replay-mine: predicted loss" in said
    assert "D = 25,600" in said
    assert "Was it right? Yes" in said
    assert "Cost" not in said  # of losses measured elsewhere nobody knows it
    assert "weights" not in said.split("P(best)")[0]


def test_the_screen_of_all_budgets_has_a_column_for_each(table: Path):
    said = shown(screens.ranking(summary(table, all_budgets=True), 110))
    assert "predictor 1.6k 3.2k mean RelAcc RMSE log in 80 %" in said


def test_the_screen_of_a_policy_tells_whom_it_dropped_and_what_it_saved(table: Path):
    found = summary(table, policy="halving", budget=12_800)
    said = shown(screens.ranking(found, 110))
    assert "Dropped after D = 1,600: " in said
    assert "The sweep stopped at D = 6,400: one candidate is left." in said
    spent = found.result.simulated_cost["spent_examples"].iloc[0]
    assert f"{spent:,.0f} examples spent against" in said
    assert f"{found.result.saved:.1%} saved" in said


def test_many_candidates_are_cut_on_the_screen_and_complete_in_json(table: Path):
    many = pd.read_csv(table, index_col="model").loc[["a"] * 30]
    many.index = [f"m{i}" for i in range(30)]
    path = table.with_name("many.csv")
    (many * np.linspace(1, 2, 30)[:, None]).to_csv(path, index_label="model")
    found = summary(path)
    assert "… and 18 more in the report." in shown(screens.ranking(found, 110))
    assert len([r for r in found.as_replay["candidates"] if r["predictor"] == "stack"]) == 30


# --- a sweep with a policy ------------------------------------------------------------------------

WIDTHS = {"w8": 8, "w16": 16, "w24": 24, "w32": 32}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Pipeline]:
    """A finished sweep that halved its candidates twice, with its report."""
    folder = tmp_path_factory.mktemp("swept")
    config = project.changed(
        project.write_inputs(folder, WIDTHS, rows=260),
        sweep={"min": 2, "max": 128, "target": 160, "policy": "halving"},
        curvature={"sizes": []},
        heavy_tails={"enabled": False},
    )
    store = Store(folder / "artifacts")
    store.prepare()
    plan = make_plan(config, store)
    project.finish(store, plan, project.play(store, plan))
    return store, config


def states(config: Pipeline, store: Store) -> dict[tuple[str, int], str]:
    found = grid(make_plan(config, store))
    return {(cell.candidate, cell.size): state for cell, state in found.states.items()}


def test_the_grid_shows_who_was_dropped(swept: tuple[Store, Pipeline]):
    store, config = swept
    found = states(config, store)
    by_size = {size: [found[name, size] for name in WIDTHS] for size in (0, 32, 64, 128, 160)}
    assert {"done"} == {*by_size[0], *by_size[32], *by_size[160]}
    assert sorted(by_size[64]) == ["done", "done", "dropped", "dropped"]
    assert by_size[128] == ["dropped"] * 4  # one was left before it
    cells = grid(make_plan(config, store))
    assert len(strict(cells.as_dict)["cells"]) == len(found)
    drawn = shown(screen("tiny", cells, 110))
    assert "30 of 36 cells done" in drawn
    assert drawn.count("–") == 6 + 1  # and the legend's


def test_predicted_against_actual_is_told(swept: tuple[Store, Pipeline]):
    store, config = swept
    summary = reread("tiny", config, store)
    assert {row["candidate"] for row in strict(summary.as_dict)["forecast"]} == set(WIDTHS)
    assert "predicted by the probes" in " ".join(shown(screens.ranking(summary, 110)).split())


def test_before_a_decision_nobody_is_dropped(swept: tuple[Store, Pipeline], tmp_path: Path):
    _, config = swept
    found = states(config, Store(tmp_path / "nothing"))
    assert {"to come"} == set(found.values())


def test_in_the_middle_of_a_round_the_dropped_are_told_from_those_to_come(
    swept: tuple[Store, Pipeline], tmp_path: Path
):
    _, config = swept
    store = Store(tmp_path / "artifacts")
    store.prepare()
    plan = make_plan(config, store)
    second = {step.ref for cell, step in plan.cells.items() if cell.size > 32}
    project.play(store, plan, second)  # as if killed before the second round
    found = states(config, store)
    assert sorted(found[name, 64] for name in WIDTHS) == ["dropped"] * 2 + ["to come"] * 2
    assert {found[name, 32] for name in WIDTHS} == {"done"}
    assert [found[name, 64] for name in WIDTHS] == [found[name, 128] for name in WIDTHS]
    assert {found[name, 160] for name in WIDTHS} == {"to come"}  # measured of everybody


def test_cells_of_another_run_are_shown_as_dropped(swept: tuple[Store, Pipeline], tmp_path: Path):
    """They are there, and not part of this ranking."""
    store, config = swept
    shutil.copytree(store.root, tmp_path / "artifacts")
    store, before = Store(tmp_path / "artifacts"), states(config, store)
    project.make_all(store, make_plan(config, store).cells.values())
    assert states(config, store) == before


def test_a_sweeps_ranking_is_read_again(swept: tuple[Store, Pipeline]):
    store, config = swept
    found = reread("tiny", config, store)
    said = strict(found.as_dict)
    assert [row["rank"] for row in said["ranking"]] == [1, 2, 3, 4]
    assert said["decisions"][-1]["stop"] == "one candidate is left"
    assert said["failed"] == []
    assert said["cost"]["saved"] is not None
    assert "Dropped after D = 32: " in shown(screens.ranking(found, 110))


def test_another_policy_has_no_ranking_yet(swept: tuple[Store, Pipeline]):
    store, config = swept
    other = project.changed(config, sweep={"policy": "adaptive"})
    with pytest.raises(LensError, match="'tiny' has no ranking with these settings yet"):
        reread("tiny", other, store)


def test_decisions_of_a_pipeline_are_no_garbage(swept: tuple[Store, Pipeline], tmp_path: Path):
    store, config = swept

    def stages(settings: Pipeline) -> list[str]:
        file = tmp_path / "pipelines.yaml"
        file.write_text(yaml.safe_dump({"pipelines": {"tiny": settings.model_dump(mode="json")}}))
        return [ref.stage for ref in garbage([file], store).refs]

    assert stages(config) == []
    left = stages(project.changed(config, sweep={"policy": "all"}))
    assert left.count("decision") == 2
    assert "finetune" not in left


def test_the_page_of_a_run_with_failures_is_no_garbage(
    swept: tuple[Store, Pipeline], tmp_path: Path
):
    store, config = swept
    shutil.copytree(store.root, tmp_path / "artifacts")
    store = Store(tmp_path / "artifacts")
    file = tmp_path / "pipelines.yaml"
    file.write_text(yaml.safe_dump({"pipelines": {"tiny": config.model_dump(mode="json")}}))
    plan = make_plan(config, store)
    now = as_left(plan)
    failed = [("finetune of another", "it died")]
    page = plan_ranking("tiny", plan, failed, now.cells, now.decisions)["report"][""]
    project.make_all(store, [page])
    assert garbage([file], store).refs == []
    other = Recipe("report", page.recipe.version, page.recipe.params, {})  # of no ranking of ours
    store.make(other, lambda folder: (folder / "report.html").touch())
    assert garbage([file], store).refs == [other.ref]


def test_what_any_of_several_files_says_is_no_garbage(
    swept: tuple[Store, Pipeline], tmp_path: Path
):
    store, config = swept
    files = []
    for policy in ("all", "halving"):
        changed = project.changed(config, sweep={"policy": policy}).model_dump(mode="json")
        files.append(tmp_path / f"{policy}.yaml")
        files[-1].write_text(yaml.safe_dump({"pipelines": {"tiny": changed}}))
    assert garbage(files[:1], store).refs
    assert garbage(files, store).refs == []


def test_a_finding_about_many_candidates_is_cut_on_the_screen():
    names = ", ".join(f"candidate-{i} (0 of 5, D* beyond the target)" for i in range(20))
    whole = fold(f"Few sizes: 20 candidates, {names}; raise the budget.")
    said = screens._short(whole)
    assert said.startswith("Few sizes: 20 candidates, candidate-0 (0 of 5, D* beyond the target), ")
    assert said.endswith("candidate-2 (0 of 5, D* beyond the target), …; raise the budget.")
    assert screens._short(fold("A short one.")) == "A short one."
