"""What a plan's keys depend on, and what they do not."""

from pathlib import Path

import pytest

from lensllm.config import configfile
from lensllm.config import sections as config
from lensllm.core.errors import ConfigError
from lensllm.store.artifacts import Store
from tasks.base.plan import Plan
from tasks.base.step import Cell
from tasks.planning.plan import check, make_plan, plan_ranking
from tests.tasks import project

ROOT = Path(__file__).parents[3]


def plan(store: Store, *overrides: str) -> Plan:
    return make_plan(configfile.load(ROOT / "pipelines.yaml", "demo", overrides), store)


def refs(made: Plan) -> dict[Cell, object]:
    return {cell: step.ref for cell, step in made.cells.items()}


def test_every_artefact_stands_once_and_after_what_it_is_made_of(store: Store):
    made = plan(store, "sweep.seeds=2")
    seen = set()
    for step in made.steps:
        assert step.ref not in seen
        assert set(step.recipe.upstream.values()) <= seen
        seen.add(step.ref)
    assert len(made.cells) == 6 * 6 * 2
    assert len({step.label for step in made.steps}) == len(made.steps)


def test_the_smallest_cells_of_all_candidates_come_first(store: Store):
    sizes = [cell.size for cell in plan(store).cells]
    assert sizes == sorted(sizes)


def test_a_longer_sweep_keeps_every_finished_cell(store: Store):
    short, long = refs(plan(store)), refs(plan(store, "sweep.max=1600", "sweep.target=3200"))
    assert all(long[cell] == ref for cell, ref in short.items())


def test_a_second_seed_keeps_the_cells_of_the_first(store: Store):
    one, two = refs(plan(store)), refs(plan(store, "sweep.seeds=2"))
    assert all(two[cell] == ref for cell, ref in one.items())
    assert len(two) == 2 * len(one)


def test_a_candidates_name_is_not_in_its_keys(store: Store):
    model = "builtin:gpt2-nano-docs"
    named = refs(plan(store, f"candidates=[{{name: mine, model: '{model}'}}]"))
    plain = refs(plan(store, f"candidates=['{model}']"))
    assert list(named.values()) == list(plain.values())


@pytest.mark.parametrize(
    ("override", "changes"),
    [
        ("finetune.learning_rate=0.002", True),
        ("seed=1", True),
        ("data.max_tokens=64", True),
        ("data.test_examples=400", True),
        ("engine.slots=1", False),
        ("engine.cell_timeout_minutes=5", False),
        ("ranking.predictor=ats", False),
        ("law.gamma=4", False),
        ("law.tau=3", False),
        ("kernel.probes=16", False),
        ("tracking.enabled=false", False),
    ],
)
def test_cells_are_computed_again_only_for_what_they_depend_on(store, override, changes):
    before, after = refs(plan(store)), refs(plan(store, override))
    assert changes == all(before[cell] != ref for cell, ref in after.items())
    assert changes == any(before[cell] != ref for cell, ref in after.items())


@pytest.mark.parametrize(
    ("predictor", "overrides", "sentence"),
    [
        ("stack", ["sweep.min=400"], "stack needs 3 subset sizes and the sweep has 2"),
        ("rectified", ["sweep.min=200"], "rectified needs 4 subset sizes and the sweep has 3"),
        ("blend", ["law.gamma=5"], "blend needs 5 subset sizes and the sweep has 4"),
        (
            "hrb",
            ["law.gamma=6", "sweep.policy=halving", "sweep.min=10", "sweep.max=800"],
            r"sweep.policy: halving decides by ats, which needs 6 .* begins with 5 \(10, 20, 40",
        ),
        (
            "rectified",
            ["sweep.policy=adaptive", "sweep.min=10", "sweep.growth=4"],
            "adaptive decides by rectified, which needs 4 subset sizes, and begins with 3",
        ),
    ],
)
def test_a_predictor_without_enough_sizes_is_refused_before_the_sweep(
    store: Store, predictor: str, overrides: list[str], sentence: str
):
    more = ["curvature.sizes=[]", f"ranking.predictor={predictor}", *overrides]
    loaded = configfile.load(ROOT / "pipelines.yaml", "demo", more)
    with pytest.raises(ConfigError, match=sentence):
        check(loaded, store)


def test_weight_spectra_are_steps_of_their_own_when_asked_for(store: Store):
    without, asked = plan(store), plan(store, "heavy_tails.enabled=true")
    added = {step.ref for step in asked.steps} - {step.ref for step in without.steps}
    assert added == {step.ref for step in asked["heavy_tails"].values()}
    assert asked["heavy_tails"].keys() == asked["kernel"].keys()
    assert refs(asked) == refs(without)


@pytest.mark.parametrize("policy", ["adaptive", "halving"])
def test_a_policy_asks_for_cells_of_the_same_names(store: Store, policy: str):
    assert refs(plan(store)) == refs(plan(store, f"sweep.policy={policy}"))


def test_a_conclusion_rests_on_the_cells_that_finished(tmp_path: Path):
    store = Store(tmp_path / "artifacts")
    store.prepare()
    made = make_plan(project.write_inputs(tmp_path), store)
    project.make_all(store, [*made.preparation, *made.cells.values()])
    whole = plan_ranking("tiny", made, [], made.cells, [])
    store.remove(made.cells[Cell("wide", 8, 0)].ref)
    fewer = plan_ranking("tiny", made, [("finetune wide · D=8", "killed")], made.cells, [])
    rests = [set(ending["curve"][""].recipe.upstream) for ending in (whole, fewer)]
    assert rests[0] - rests[1] == {"wide|8|0"}
    assert fewer["report"][""].recipe.params["failed"] == [["finetune wide · D=8", "killed"]]


def test_credentials_of_a_tracking_server_are_in_no_artefact(store: Store):
    tracking = config.Tracking(uri="http://me:hunter2@example.org/mlflow")
    loaded = configfile.load(ROOT / "pipelines.yaml", "demo").model_copy(
        update={"tracking": tracking}
    )
    made = make_plan(loaded, store)
    steps = [*made.steps, *plan_ranking("demo", made, [], made.cells, []).steps]
    assert not any("hunter2" in str(step.recipe.describe()) for step in steps)
    assert config.public(loaded)["tracking"]["uri"] == "http://***@example.org/mlflow"
