"""A sweep with a policy on real cells: read from the store alone, whatever happened before."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from lensllm.config.sections import Pipeline
from lensllm.store.artifacts import Ref, Store
from tasks.base.plan import Plan
from tasks.base.step import Cell
from tasks.planning.plan import make_plan
from tasks.planning.rounds import Sweep, sweep
from tasks.stages import decision
from tests.tasks import project

WIDTHS = {"w8": 8, "w16": 16, "w24": 24, "w32": 32}
FIRST, LATER, TARGET = (0, 2, 4, 8, 16, 32), (64, 128), 160


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Pipeline]:
    """An artifacts folder with every cell that a policy may ask for, and its configuration."""
    folder = tmp_path_factory.mktemp("rounds")
    config = project.changed(
        project.write_inputs(folder, WIDTHS, rows=260),
        sweep={"min": 2, "max": 128, "target": TARGET},
        curvature={"sizes": []},
        heavy_tails={"enabled": False},
    )
    store = Store(folder / "artifacts")
    store.prepare()
    project.play(store, make_plan(config, store))
    return store.root, config


@pytest.fixture
def config(finished: tuple[Path, Pipeline]) -> Pipeline:
    return finished[1]


@pytest.fixture
def store(finished: tuple[Path, Pipeline], tmp_path: Path) -> Store:
    """The test's own copy of the finished cells."""
    shutil.copytree(finished[0], tmp_path / "artifacts")
    return Store(tmp_path / "artifacts")


@pytest.fixture
def untrained(store: Store) -> Store:
    """The same without cells."""
    shutil.rmtree(store.root / "finetune")
    return Store(store.root)


def plan(store: Store, config: Pipeline, policy: str, predictor: str = "ats", **sizes: int) -> Plan:
    changed = project.changed(
        config, sweep={"policy": policy, **sizes}, ranking={"predictor": predictor}
    )
    return make_plan(changed, store)


def now(plan: Plan, store: Store, *broken: Ref) -> Sweep:
    """What a new process makes of the store."""
    again = Plan(plan.stages, plan.config, plan.models, Store(store.root), plan.target, plan.past)
    return sweep(again, lost=lambda ref: ref in broken)


def kept(store: Store, taken: Ref) -> set[str]:
    rows = store.table(taken, "decisions")
    return set(rows.loc[rows["dropped"] == "", "candidate"])


def cells(names: set[str] | dict[str, int], *sizes: int) -> set[Cell]:
    return {Cell(name, size, 0) for name in names for size in sizes}


@pytest.mark.parametrize("policy", ["halving", "adaptive"])
def test_round_by_round_from_the_store_alone(untrained: Store, config: Pipeline, policy: str):
    made = plan(untrained, config, policy)
    steps = {step.ref: cell for cell, step in made.cells.items()}
    rounds = []
    while new := project.make_all(untrained, now(made, untrained).steps):
        rounds.append({steps.get(step.ref, step.stage) for step in new})
    last = now(made, untrained)

    expected: list[set[Cell | str]] = [set(cells(WIDTHS, *FIRST))]
    for taken, size in zip(last.decisions, LATER, strict=False):
        expected.append({"curve", "decision"})
        stopped = untrained.table(taken, "decisions")["stop"].iloc[0]
        expected.append(cells(WIDTHS, TARGET) if stopped else cells(kept(untrained, taken), size))
    assert expected == rounds
    assert last.over
    assert len(last.decisions) == 2
    assert set().union(*expected) - {"curve", "decision"} == set(last.cells)
    if policy == "halving":
        assert [len(kept(untrained, taken)) for taken in last.decisions] == [2, 1]


def test_an_unfinished_round_is_not_decided_on(store: Store, config: Pipeline):
    made = plan(store, config, "halving")
    missing = made.cells[Cell("w16", 8, 0)]
    store.remove(missing.ref)
    seen = now(made, store)
    assert (seen.over, seen.decisions) == (False, ())
    assert cells(WIDTHS, *FIRST) == set(seen.cells)
    assert [missing] == project.make_all(store, seen.steps)


def test_a_decision_that_is_gone_is_taken_again_and_the_same(store: Store, config: Pipeline):
    made = plan(store, config, "adaptive", "stack")
    first = project.play(store, made)
    tables = [store.table(ref, "decisions") for ref in first.decisions]
    for ref in first.decisions:
        store.remove(ref)
    again = project.play(Store(store.root), made)
    assert first == again
    for before, ref in zip(tables, again.decisions, strict=True):
        pd.testing.assert_frame_equal(before, store.table(ref, "decisions"))


def test_a_rerun_computes_nothing(store: Store, config: Pipeline):
    made = plan(store, config, "halving")
    first = project.play(store, made)
    again = now(plan(store, config, "halving"), store)
    assert again == first
    assert again.over
    assert project.make_all(store, again.steps) == []


@pytest.mark.parametrize("policy", ["halving", "adaptive"])
@pytest.mark.parametrize(
    "broken",
    [
        cells({"w16"}, 8),
        cells({"w8"}, 64) | cells({"w32"}, 64),
        cells({"w24"}, *FIRST),
        cells({"w24"}, *FIRST[1:]),
        cells(WIDTHS, 0),
    ],
    ids=["one", "later", "candidate", "all but zero-shot", "zero-shot"],
)
def test_a_lost_cell_does_not_block(store: Store, config: Pipeline, broken: set[Cell], policy: str):
    made = plan(store, config, policy)
    lost = [made.cells[cell].ref for cell in broken]
    for ref in lost:
        store.remove(ref)
    played = project.play(store, made, lost)
    rows = decision.read(store, played.decisions)
    assert played.over
    assert rows["predicted"].notna().all()
    gone = {name for name in WIDTHS if cells({name}, *FIRST[1:]) <= broken}
    assert WIDTHS.keys() - gone == set(rows.loc[rows["budget"] == 32, "candidate"])
    assert not any(store.has(ref) for ref in lost)


def test_who_was_dropped_is_ranked_and_not_chosen(store: Store, config: Pipeline):
    made = plan(store, config, "halving")
    played = project.play(store, made)
    rows = project.answers(store, project.finish(store, made, played)).query("predictor == 'ats'")
    assert WIDTHS.keys() == set(rows.loc[rows["predicted"].notna(), "candidate"])
    chosen = rows.loc[rows["cautious"].notna(), "candidate"]
    assert kept(store, played.decisions[-1]) == set(chosen)


def test_a_candidate_without_any_cell_is_not_in_the_ranking(store: Store, config: Pipeline):
    made = plan(store, config, "halving")
    lost = [step.ref for cell, step in made.cells.items() if cell.candidate == "w32"]
    for ref in lost:
        store.remove(ref)
    ending = project.finish(store, made, project.play(store, made, lost))
    assert {"w8", "w16", "w24"} == set(project.answers(store, ending)["candidate"])


@pytest.mark.parametrize("sizes", [(0, *FIRST), FIRST[1:]])
def test_without_a_trained_cell_there_is_nothing_left_to_do(
    untrained: Store, config: Pipeline, sizes: tuple[int, ...]
):
    made = plan(untrained, config, "halving")
    lost = [step.ref for cell, step in made.cells.items() if cell.size in sizes]
    played = project.play(untrained, made, lost)
    assert (played.over, played.decisions) == (False, ())
    assert {"finetune"} == {step.stage for step in played.steps}


def test_the_policy_all_is_one_round(untrained: Store, config: Pipeline):
    made = plan(untrained, config, "all")
    seen = now(made, untrained)
    assert (seen.over, seen.decisions) == (True, ())
    assert cells(WIDTHS, *FIRST, *LATER, TARGET) == set(seen.cells)


def test_cells_of_another_run_do_not_leak_into_the_ranking(store: Store, config: Pipeline):
    made = plan(store, config, "halving")
    played = project.play(store, made)
    ending = project.finish(store, made, played)

    unwanted = made.cells.keys() - set(played.cells)
    assert unwanted == cells(WIDTHS, 128) | cells(
        WIDTHS.keys() - kept(store, played.decisions[0]), 64
    )
    assert all(store.has(made.cells[cell].ref) for cell in unwanted)
    used = store.table(ending.ref("curve"), "cells")
    assert set(played.cells) == {
        Cell(*row) for row in used[["candidate", "size", "repeat"]].itertuples(index=False)
    }
    every = plan(store, config, "all")
    assert project.finish(store, every, project.play(store, every)).ref("ranking") != ending.ref(
        "ranking"
    )
    for cell in unwanted:
        store.remove(made.cells[cell].ref)
    assert project.finish(store, made, now(made, store)).steps == ending.steps


def test_each_policy_decides_for_itself(store: Store, config: Pipeline):
    decisions = [
        project.play(store, plan(store, config, policy)).decisions[0]
        for policy in ("halving", "adaptive")
    ]
    assert len(set(decisions)) == 2


def test_a_longer_sweep_keeps_the_decisions(store: Store, config: Pipeline):
    short = project.play(store, plan(store, config, "halving", max=64))
    long = project.play(store, plan(store, config, "halving", max=128))
    assert short.decisions == long.decisions[:1]


def test_a_predictor_is_told_the_kernels_and_waits_for_them(store: Store, config: Pipeline):
    made = plan(store, config, "adaptive", "lensllm")
    store.remove(made["kernel"]["w8"].ref)
    assert now(made, store).decisions == ()
    assert {"finetune"} == {step.stage for step in now(made, store).steps}
    played = project.play(store, made)
    assert played.over
    assert decision.read(store, played.decisions)["predicted"].notna().all()
