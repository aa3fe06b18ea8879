"""Who keeps the weights of a cell, and for how long."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from lensllm.config.sections import Pipeline
from lensllm.core.errors import LensError
from lensllm.store.artifacts import Store
from tasks.base.plan import Plan
from tasks.base.step import Cell
from tasks.planning.make import make
from tasks.planning.plan import make_plan
from tasks.stages import delta
from tests.tasks import project

CELL = Cell("narrow", 4, 0)


@pytest.fixture
def config(tmp_path: Path) -> Pipeline:
    return project.write_inputs(tmp_path, {"narrow": 16})


def _train(store: Store, plan: Plan) -> None:
    project.make_all(store, [*plan.preparation, plan.cells[CELL]])


def test_a_cell_is_the_same_whether_examined_or_not(store: Store, config: Pipeline):
    without = project.changed(config, curvature={"sizes": []})
    assert make_plan(config, store).cells[CELL].ref == make_plan(without, store).cells[CELL].ref


def test_weights_are_kept_until_the_curvature_is_measured(store: Store, config: Pipeline):
    plan = make_plan(config, store)
    _train(store, plan)
    kept = plan["delta"][CELL]
    assert store.has(kept.ref)
    project.make_all(store, [kept, plan["curvature"][CELL]])
    assert not store.path(kept.ref).exists()
    assert CELL not in make_plan(config, store)["delta"]
    assert kept not in project.play(store, make_plan(config, store)).steps


def test_weights_nobody_kept_are_the_same_when_trained_again(store: Store, config: Pipeline):
    """As when a size is examined that was not at first."""
    without = make_plan(project.changed(config, curvature={"sizes": []}), store)
    _train(store, without)
    kept = make_plan(config, store)["delta"][CELL]
    assert not store.has(kept.ref)
    make(store.root, kept.recipe, kept.hints)
    again = load_file(store.path(kept.ref) / delta.FILE)
    store.remove(kept.ref)
    store.remove(without.cells[CELL].ref)
    _train(store, make_plan(config, store))
    first = load_file(store.path(kept.ref) / delta.FILE)
    assert again.keys() == first.keys()
    assert all((again[name] == weight).all() for name, weight in first.items())
    assert any(weight.any() for weight in first.values())


def test_a_measured_curvature_needs_no_weights_any_more(store: Store, config: Pipeline):
    project.run(store, config)
    assert store.refs("delta") == []
    assert project.play(store, make_plan(config, store)).over
    assert store.refs("delta") == []


def test_weights_that_are_gone_are_a_sentence(store: Store, config: Pipeline):
    plan = make_plan(config, store)
    _train(store, plan)
    measured = plan["curvature"][CELL]
    store.remove(plan["delta"][CELL].ref)
    with pytest.raises(LensError, match=r"delta/\w+ is missing; run the pipeline again"):
        make(store.root, measured.recipe, measured.hints)
    assert store.has(plan.cells[CELL].ref)
