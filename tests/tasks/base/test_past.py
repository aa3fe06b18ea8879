"""What a ranking may learn from the curves of other data sets, and never from its own."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lensllm.config.sections import Pipeline, Replay
from lensllm.curves.curve import curves_from_cells
from lensllm.predictors import hrb
from lensllm.predictors.hrb import DEFAULT_PRIOR
from lensllm.store.artifacts import Ref, Store
from tasks.base import past
from tasks.base.plan import RankingPlan
from tasks.planning import replay
from tasks.planning.plan import find_past, make_plan, plan_ranking
from tasks.stages import STAGES, losses
from tests.tasks import project

FLAN, GIGAWORD = losses.step("flan").ref, losses.step("gigaword").ref


def swept(store: Store, config: Pipeline, largest: int) -> tuple[Ref, Ref]:
    """The data set and the curves of a sweep up to ``largest``."""
    plan = make_plan(project.changed(config, sweep={"max": largest, "target": 64}), store)
    project.make_all(store, plan.preparation)
    project.make_all(store, plan.cells.values())
    ending = plan_ranking("tiny", plan, [], plan.cells, [])
    project.make_all(store, [s for s in ending.steps if s.stage in ("curve", "inspection")])
    return plan["dataset"][""].ref, ending.ref("curve")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Ref]]:
    """A store with both published tables, two sweeps on one data set and one on another."""
    folder = tmp_path_factory.mktemp("past")
    store = Store(folder / "artifacts")
    store.prepare()
    project.make_all(store, [losses.step("flan"), losses.step("gigaword")])
    refs = {}
    for name, rows in (("one", 160), ("other", 150)):
        (folder / name).mkdir()
        config = project.changed(
            project.write_inputs(folder / name, rows=rows),
            sweep={"measure_target": False},
            kernel={"enabled": False},
            curvature={"sizes": []},
            heavy_tails={"enabled": False},
        )
        refs[name], refs[f"{name} short"] = swept(store, config, 16)
        if name == "one":
            refs[name], refs["one long"] = swept(store, config, 32)
    return store.root, refs


@pytest.fixture
def store(made: tuple[Path, dict[str, Ref]]) -> Store:
    return Store(made[0])


@pytest.fixture
def refs(made: tuple[Path, dict[str, Ref]]) -> dict[str, Ref]:
    return made[1]


def test_the_largest_curves_of_every_other_data_set(store: Store, refs: dict[str, Ref]):
    tables = {str(FLAN): FLAN, str(GIGAWORD): GIGAWORD}
    assert tables | {str(refs["other"]): refs["other short"]} == find_past(store, refs["one"])
    assert tables | {str(refs["one"]): refs["one long"]} == find_past(store, refs["other"])


def test_a_published_table_is_no_past_of_itself(store: Store, refs: dict[str, Ref]):
    sweeps = {refs["one long"], refs["other short"]}
    assert {GIGAWORD, *sweeps} == set(find_past(store, FLAN).values())
    assert {FLAN, *sweeps} == set(find_past(store, GIGAWORD).values())


def test_curves_of_which_the_data_set_is_unknown_are_not_used(
    store: Store, refs: dict[str, Ref], tmp_path: Path
):
    """They may be today's: its cells, which say so, have been collected."""
    shutil.copytree(store.root, tmp_path / "artifacts")
    shutil.rmtree(tmp_path / "artifacts" / "finetune")
    found = find_past(Store(tmp_path / "artifacts"), refs["other"])
    assert {FLAN, GIGAWORD} == set(found.values())


def test_curves_of_another_version_of_a_stage_are_not_used(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    later = replace(losses.STAGE, version=losses.STAGE.version + 1)
    monkeypatch.setitem(STAGES, "losses", later)
    assert GIGAWORD not in find_past(store, FLAN).values()


def test_an_empty_store_has_no_past(tmp_path: Path):
    store = Store(tmp_path)
    store.prepare()
    assert find_past(store, FLAN) == {}


def test_the_prior_is_the_default_without_a_past_in_this_metric(store: Store, refs: dict[str, Ref]):
    today = store.table(refs["one long"], "cells")
    assert past.prior(store, [], "nats_per_token", today) == DEFAULT_PRIOR
    assert past.prior(store, [FLAN], "bits_per_byte", today) == DEFAULT_PRIOR


def test_the_same_losses_under_another_checksum_teach_nothing(store: Store):
    """A table with a typing error mended is its own past, with the truth in it."""
    today = store.table(FLAN, "cells")
    today.loc[today.index[:100], "nats_per_token"] += 0.01
    assert past.prior(store, [FLAN], "nats_per_token", today) == DEFAULT_PRIOR


def test_the_prior_is_what_hrb_learns_from_the_whole_curves(store: Store, refs: dict[str, Ref]):
    used = [refs["one long"], FLAN]
    curves = [curves_from_cells(store.table(ref, "cells"), "nats_per_token", 10**9) for ref in used]
    expected = hrb.learn(curves)
    assert expected != DEFAULT_PRIOR
    today = store.table(GIGAWORD, "cells")
    assert past.prior(store, used, "nats_per_token", today) == expected


def of_table(store: Store, table: Ref, name: str, prior: str) -> RankingPlan:
    asked = Replay.model_validate({"table": name, "ranking": {"prior": prior}, "budget": 800})
    return replay.plan_ranking(replay.goal(asked, store, table), store, table)


def past_of_predictions(ending: RankingPlan) -> dict[str, dict[str, Ref]]:
    """The curves of the past that each predictor reads, of those that read any."""
    found = {}
    for step in ending.steps:
        if step.stage == "prediction":
            (name,) = step.recipe.params["predictors"]
            upstream = step.recipe.upstream.items()
            found[name] = {role: ref for role, ref in upstream if role.startswith("past:")}
    return {name: read for name, read in found.items() if read}


def test_a_replay_learns_from_the_store_only_when_asked(tmp_path: Path):
    """Of flan for gigaword, with the key telling so."""
    store = Store(tmp_path)
    store.prepare()
    project.make_all(store, [losses.step("gigaword")])
    alone = of_table(store, GIGAWORD, "gigaword", "default")
    nothing_yet = of_table(store, GIGAWORD, "gigaword", "store")
    project.make_all(store, [losses.step("flan")])
    again = of_table(store, GIGAWORD, "gigaword", "default")
    taught = of_table(store, GIGAWORD, "gigaword", "store")

    assert again.ref("ranking") == alone.ref("ranking")
    assert nothing_yet.ref("ranking") == alone.ref("ranking")
    assert taught.ref("ranking") != alone.ref("ranking")
    assert {"hrb": {f"past:{FLAN}": FLAN}} == past_of_predictions(taught)
    for ending in (alone, taught):
        project.make_all(store, [s for s in ending.steps if s.stage in ("prediction", "ranking")])
    for name, same in (("ats", True), ("hrb", False), ("stack", False)):
        predicted = [
            rows[rows["predictor"] == name].sort_values("candidate")["predicted"].to_numpy()
            for ending in (alone, taught)
            for rows in [store.table(ending.ref("ranking"), "predictions")]
        ]
        assert same == bool((predicted[0] == predicted[1]).all())


def test_a_pipeline_learns_from_the_store_only_when_asked(made: tuple[Path, dict[str, Ref]]):
    root, _ = made
    store = Store(root)
    config = project.write_inputs(root.parent / "one")
    plain = make_plan(config, store)
    taught = make_plan(project.changed(config, ranking={"prior": "store"}), store)
    assert plain.past == {}
    assert find_past(store, plain["dataset"][""].ref) == taught.past
    read = past_of_predictions(plan_ranking("tiny", taught, [], [], []))
    assert {"hrb": {f"past:{name}": ref for name, ref in taught.past.items()}} == read
    assert {
        f"past:{name}": ref for name, ref in taught.past.items()
    }.items() <= taught.predictor_inputs.items()
