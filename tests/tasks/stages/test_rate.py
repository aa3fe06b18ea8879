"""A learning rate chosen for each candidate, before its other cells."""

import math
from pathlib import Path

import pytest

from lensllm.config.sections import FineTune, Pipeline
from lensllm.core.errors import ModelError
from tasks.base.plan import Plan
from tasks.base.step import Cell
from tasks.base.training import chosen_rate
from tasks.planning.make import note
from tasks.planning.plan import make_plan, plan_ranking
from tests.tasks import project

RATES = [1e-4, 1e-2, 1e30]


@pytest.fixture
def config(tmp_path: Path) -> Pipeline:
    plain = project.write_inputs(tmp_path, {"narrow": 16})
    return project.changed(
        plain,
        curvature={"sizes": []},
        sweep={"max": 8, "seeds": 2, "measure_target": False},
        kernel={"enabled": False},
        heavy_tails={"enabled": False},
        ranking={"predictor": "zero_shot"},
    )


def chosen_among(config: Pipeline, *rates: float, **others: object) -> Pipeline:
    return project.changed(config, finetune={"learning_rates": list(rates), **others})


def refs(plan: Plan) -> dict[Cell, object]:
    return {cell: step.ref for cell, step in plan.cells.items()}


def test_the_choice_is_the_best_on_validation_and_the_other_cells_train_with_it(store, config):
    plan = make_plan(chosen_among(config, *RATES), store)
    project.make_all(store, [*plan.preparation, *plan.cells.values()])
    made = plan["rate"]["narrow"]
    table = store.table(made.ref, "rates").set_index("learning_rate")
    losses = {
        value: store.table(step.ref, "cell")["validation_nats_per_token"].iloc[0]
        for value, step in plan.trials("narrow").items()
    }
    assert losses == table["validation_nats_per_token"].to_dict()
    best = min(losses, key=losses.__getitem__)
    assert (best, math.inf) == (1e-2, losses[1e30])
    assert best == chosen_rate(store, made.ref)
    assert {4} == set(table["size"])
    cells = {cell: store.table(step.ref, "cell").iloc[0] for cell, step in plan.cells.items()}
    assert {best} == {row["learning_rate"] for cell, row in cells.items() if cell.size}
    assert note(store, made) == "learning rate 0.01 of 0.0001, 0.01, 1e+30"
    trial = store.table(plan.trials("narrow")[best].ref, "cell").iloc[0]
    assert trial.equals(cells[Cell("narrow", 4, 0)])  # not trained twice
    ending = plan_ranking("tiny", plan, [], plan.cells, [])
    assert ending["report"][""].recipe.upstream["rate:narrow"] == made.ref

    project.make_all(
        store, [s for s in ending.steps if s.stage in ("curve", "prediction", "ranking")]
    )
    spent = store.table(ending.ref("ranking"), "cost")["spent_flops"].sum()
    paid = {step.ref for cell, step in plan.cells.items() if cell.size <= 8}
    paid |= {step.ref for value, step in plan.trials("narrow").items() if value != best}
    tables = [store.table(ref, "cell").iloc[0] for ref in paid]
    assert spent == pytest.approx(sum(t["train_flops"] + t["evaluation_flops"] for t in tables))


def test_a_choice_at_the_edge_is_worth_a_sentence(store, config):
    plan = make_plan(chosen_among(config, 1e-5, 1e-3), store)
    project.make_all(store, plan.preparation)
    assert note(store, plan["rate"]["narrow"]).endswith(
        "the largest tried, a larger one may be better"
    )


def test_a_choice_among_what_diverges_is_a_sentence(store, config):
    plan = make_plan(chosen_among(config, 1e29, 1e30), store)
    with pytest.raises(ModelError, match=r"all of 1e\+29, 1e\+30 diverge.*finetune.learning_rates"):
        project.make_all(store, plan.preparation)


def test_without_a_grid_no_key_knows_of_it(store, config):
    plain, other = make_plan(config, store), make_plan(chosen_among(config, 1e-3, 1e-2), store)
    assert not plain["rate"]
    assert not any("rate" in step.recipe.upstream for step in plain.cells.values())
    before, after = refs(plain), refs(other)
    assert {0} == {cell.size for cell, ref in after.items() if before[cell] == ref}


def test_with_a_grid_the_single_rate_is_in_no_key_of_what_is_trained(store, config):
    one, two = (
        refs(make_plan(chosen_among(config, 1e-3, 1e-2, learning_rate=value), store))
        for value in (1e-3, 5e-4)
    )
    assert {0} == {cell.size for cell, ref in one.items() if two[cell] != ref}


def test_adapters_choose_their_own_rate():
    recipe = FineTune(method="lora", learning_rates=(1e-3, 1e-2), learning_rate=5.0)
    assert (
        recipe.with_learning_rate(1e-2).peak
        == recipe.with_learning_rate(1e-2).lora.learning_rate
        == 1e-2
    )
    assert "learning_rate" not in recipe.content
    assert recipe.with_learning_rate(1e-2).content != recipe.with_learning_rate(1e-3).content


@pytest.mark.parametrize("rates", [[1e-3], [1e-3, 1e-3], [0.0, 1e-3]])
def test_a_grid_of_one_is_refused(rates: list[float]):
    with pytest.raises(ValueError, match=r"at least two|greater than 0"):
        FineTune(learning_rates=tuple(rates))
