"""A sweep with trunks: what is continued, kept, lost and counted."""

import io
import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console, RenderableType

from flows.cli import screens
from lensllm.config.sections import Pipeline
from lensllm.laws.epochs import effective_size
from lensllm.models import cost, load
from lensllm.store.artifacts import Ref, Store
from lensllm.training.optimiser import Optimiser
from lensllm.training.schedule import trunk_steps
from tasks.base.plan import Plan
from tasks.base.step import Cell
from tasks.planning import estimate
from tasks.planning.plan import make_plan
from tasks.planning.preflight import Preflight
from tasks.stages import trunk
from tests.tasks import project

SIZES, BATCH = (4, 8, 16, 32), 4
VARIES = ["seconds", "peak_memory_bytes"]


@pytest.fixture
def config(tmp_path: Path) -> Pipeline:
    return project.changed(
        project.write_inputs(tmp_path, {"narrow": 16}),
        sweep={"schedule": "trunk"},
        kernel={"enabled": False},
        heavy_tails={"enabled": False},
        curvature={"sizes": []},
    )


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The rates of all optimiser steps made."""
    made: list[float] = []
    plain = Optimiser.step

    def step(self, examples, rate):
        made.append(rate)
        return plain(self, examples, rate)

    monkeypatch.setattr(Optimiser, "step", step)
    return made


def sweep(store: Store, config: Pipeline) -> Plan:
    plan = make_plan(config, store)
    project.play(store, plan.without("probe"))
    return plan


def row(store: Store, plan: Plan, size: int) -> pd.Series:
    table = store.table(plan.cells[Cell("narrow", size, 0)].ref, "cell")
    return table.drop(columns=VARIES).iloc[0]


def kept(store: Store) -> list[int]:
    found = store.manifests("trunk").values()
    return sorted(manifest["params"]["steps"] for manifest in found)


def remove(store: Store, plan: Plan, *sizes: int) -> None:
    for size in sizes:
        store.remove(plan.cells[Cell("narrow", size, 0)].ref)


def test_every_example_of_the_trunk_is_trained_on_once(store: Store, config: Pipeline, steps):
    plan = sweep(store, project.changed(config, sweep={"measure_target": False}))
    leaves = [trunk_steps(size, BATCH) for size in SIZES]
    branches = sum(size // BATCH - leave for size, leave in zip(SIZES, leaves, strict=True))
    assert len(steps) == leaves[-1] + branches
    assert kept(store) == [leaves[-1]]
    assert trunk.belonging(plan) == set(store.manifests("trunk"))
    assert [row(store, plan, size)["steps"] for size in SIZES] == [size // 4 for size in SIZES]


def test_a_cell_is_the_same_with_and_without_the_trunk_before_it(store: Store, config: Pipeline):
    plan = sweep(store, config)
    for size in (16, 32):
        before = row(store, plan, size)
        remove(store, plan, size)
        for ref in store.manifests("trunk"):
            store.remove(ref)
        project.make_all(store, [plan.cells[Cell("narrow", size, 0)]])
        pd.testing.assert_series_equal(before, row(store, plan, size))


def test_a_larger_budget_continues_the_trunk(store: Store, config: Pipeline, steps):
    sweep(store, project.changed(config, sweep={"max": 16, "measure_target": False}))
    steps.clear()
    plan = sweep(store, project.changed(config, sweep={"measure_target": False}))
    assert len(steps) == 32 // BATCH - trunk_steps(16, BATCH)
    assert kept(store) == [trunk_steps(32, BATCH)]
    assert math.isnan(row(store, plan, 32)["validation_nats_per_token"])


@pytest.mark.parametrize("keep", [False, True])
def test_a_size_in_between_starts_from_the_last_state_before_it(
    store: Store, config: Pipeline, steps, keep: bool
):
    config = project.changed(config, sweep={"keep_trunks": keep, "measure_target": False})
    sweep(store, config)
    assert len(kept(store)) == (len(SIZES) - 1 if keep else 1)  # the first leaves at once
    steps.clear()
    sweep(store, project.changed(config, sweep={"min": 6, "max": 24}))  # 6, 12 and 24
    assert len(steps) == (1 + 2 + 3 if keep else 2 + 2 + 4)


@pytest.mark.parametrize("harm", ["cut", "other"])
def test_a_damaged_state_is_trained_again(
    store: Store, config: Pipeline, harm: str, caplog: pytest.LogCaptureFixture
):
    plan = sweep(store, config)
    before = row(store, plan, 32)
    remove(store, plan, 32)
    (ref,) = store.manifests("trunk")
    path = store.path(ref) / "state.safetensors"
    path.write_bytes(path.read_bytes()[:100] if harm == "cut" else b"\0" * path.stat().st_size)
    again = Store(store.root)
    project.make_all(again, [plan.cells[Cell("narrow", 32, 0)]])
    pd.testing.assert_series_equal(before, row(again, plan, 32))
    assert "trunk" in caplog.text
    assert kept(again) == [trunk_steps(32, BATCH)]


def test_the_chosen_rate_alone_keeps_its_trunk(store: Store, config: Pipeline):
    rates = {"learning_rates": [1e-4, 1e-3, 1e-2]}
    plan = sweep(store, project.changed(config, sweep={"min": 8}, finetune=rates))
    table = store.table(plan["rate"]["narrow"].ref, "rates")
    chosen = table.loc[table["chosen"], "learning_rate"].item()
    (manifest,) = store.manifests("trunk").values()
    assert manifest["params"]["recipe"]["learning_rate"] == chosen
    assert row(store, plan, 32)["learning_rate"] == chosen
    assert math.isfinite(row(store, plan, 8)["validation_nats_per_token"])  # copied from the trial


def test_spent_is_one_trunk_and_every_branch(store: Store, config: Pipeline, tmp_path: Path):
    plan = sweep(store, config)
    ending = project.finish(store, plan, project.play(store, plan.without("probe")))
    cost_row = store.table(ending.ref("ranking"), "cost").iloc[0]
    tokens = store.table(plan["tokens"]["narrow"].ref, "examples")
    sample = store.table(plan["sample"][0].ref, "roles").sort_values("rank")
    shape = cost.shape_of(load.load_model(tmp_path / "narrow"))

    def examples(role: str) -> list:
        from lensllm.data.tokens import select

        return select(tokens, sample.loc[sample["role"] == role, "row"].tolist())

    train, test = examples("train"), examples("test")
    leaves = {size: trunk_steps(size, BATCH) * BATCH for size in SIZES}
    expected = cost.train_flops(shape, train[: leaves[32]], 1)
    expected += sum(cost.train_flops(shape, train[leaves[s] : s], 1) for s in SIZES)
    expected += 5 * cost.forward_flops(shape, test)
    assert cost_row["spent_flops"] == pytest.approx(expected)
    whole = cost.train_flops(shape, train[:64], 3)
    assert cost_row["full_flops"] > whole
    assert (
        effective_size(64, 3) == store.manifest(ending.ref("ranking"))["params"]["effective_target"]
    )
    truth = store.table(plan.cells[Cell("narrow", 64, 0)].ref, "cell").iloc[0]
    assert truth["epochs"] == 3


@pytest.mark.parametrize("keep", [False, True])
def test_the_forecast_counts_the_trunk_once_and_its_states(
    store: Store, config: Pipeline, tmp_path: Path, keep: bool
):
    config = project.changed(config, sweep={"keep_trunks": keep, "seeds": 2})
    plan = make_plan(config, store)
    project.make_all(store, [s for s in plan.preparation if s.stage != "probe"])
    forecast = estimate.forecast(plan, 1)
    ending = project.finish(store, plan, project.play(store, plan.without("probe")))
    spent = store.table(ending.ref("ranking"), "cost")["spent_flops"].item()
    assert forecast.candidates[0].flops_sweep == pytest.approx(spent, rel=0.05)
    weights = load.count_parameters(load.load_model(tmp_path / "narrow"))
    assert forecast.trunk_bytes == 12 * weights * 2 * (len(SIZES) if keep else 1)
    assert forecast.epochs == 3
    said = screens.plan("tiny", forecast, Preflight((), (), ()))
    assert "trunks take" in shown(said)
    full = screens.plan("tiny", replace(forecast, free_bytes=10.0), Preflight((), (), ()))
    assert "which has 0 MB left: free some" in shown(full)


def shown(screen: RenderableType) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(screen)
    return console.file.getvalue()


def test_dropped_candidates_leave_no_trunk(store: Store, tmp_path: Path, config: Pipeline):
    both = project.write_inputs(tmp_path, {"narrow": 16, "wide": 32})
    both = project.changed(
        both,
        sweep={"schedule": "trunk", "policy": "halving", "min": 2, "max": 64, "target": 100},
        kernel={"enabled": False},
        heavy_tails={"enabled": False},
        curvature={"sizes": []},
    )
    plan = sweep(store, both)
    dropped = {
        name
        for ref in store.refs("decision")
        for name in store.table(ref, "decisions").query("dropped != ''")["candidate"]
    }
    assert len(dropped) == 1
    (kept_model,) = (m for m in plan.models if m.name not in dropped)
    (manifest,) = store.manifests("trunk").values()
    assert kept_model.params.items() <= manifest["params"].items()


def test_separate_cells_keep_their_keys(store: Store, config: Pipeline):
    def keys(**settings: object) -> dict[Cell, Ref]:
        plan = make_plan(project.changed(config, **settings), store)
        return {cell: step.ref for cell, step in plan.cells.items()}

    plain = keys(sweep={"schedule": "separate"})
    branches = keys()
    assert plain == keys(sweep={"schedule": "separate"}, finetune={"warmup_steps": 3})
    assert branches != keys(finetune={"warmup_steps": 3})
    alike = {cell for cell in plain if plain[cell] == branches[cell]}
    assert alike == {Cell("narrow", 0, 0), Cell("narrow", 64, 0)}
