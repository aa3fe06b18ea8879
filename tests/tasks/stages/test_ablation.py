"""The stage ablation over curves that are known: what its points share, and what it makes of them."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lensllm.config.sections import Pipeline, public
from lensllm.selection import scores
from lensllm.store.artifacts import Store, write_table
from lensllm.store.schemas import schema
from tasks.base.plan import Plan, RankingPlan
from tasks.base.step import Cell, Step
from tasks.planning.plan import make_plan, plan_ranking
from tasks.stages import ablation
from tasks.stages.ablation import PointResult
from tests.tasks import project

SETTINGS = (
    {"law.tau": 5.0, "finetune.epochs": 1},
    {"law.tau": 0.5, "finetune.epochs": 1},
    {"law.tau": 5.0, "finetune.epochs": 2},
)
# B, D_l and E of each candidate's rectified law with β = .5, after one epoch and after two
LAWS = {
    "narrow": ((20, 5, 1.0), (20, 20, 1.2)),
    "middle": ((22, 10, 1.1), (22, 5, 1.0)),
    "wide": ((40, 15, 1.0), (40, 25, 1.0)),
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """Three candidates, and nothing but what a ranking reads."""
    widths = {"narrow": 8, "middle": 16, "wide": 32}
    whole = project.write_inputs(tmp_path_factory.mktemp("inputs"), widths)
    return project.changed(
        whole,
        kernel={"enabled": False},
        curvature={"sizes": []},
        heavy_tails={"enabled": False},
        sweep={"max": 512, "target": 2048, "zero_shot": False},
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("artifacts"))
    store.prepare()
    return store


def trained(store: Store, plan: Plan) -> None:
    """Put the losses of the known laws where cells would stand, a little uneven."""
    for cell, step in plan.cells.items():
        loss = law(cell, plan.config.finetune.epochs) * (1 + 1e-4 * (-1) ** (cell.size // 4))
        row = dict.fromkeys(schema("finetune/cell").names, 1)
        row |= {"candidate": cell.candidate, "size": cell.size, "repeat": cell.repeat}
        row |= {
            "nats_per_token": loss,
            "bits_per_byte": loss,
            "precision": "",
            "attention": "",
            "versions": "{}",
        }
        store.make(step.recipe, lambda folder, row=row: write_table(folder, "finetune/cell", [row]))


def law(cell: Cell, epochs: int) -> float:
    b, offset, floor = LAWS[cell.candidate][epochs - 1]
    return b / (offset + cell.size**0.5) + floor


def at(config: Pipeline, settings: Mapping[str, Any]) -> Pipeline:
    sections: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        section, name = key.split(".")
        sections.setdefault(section, {})[name] = value
    return project.changed(config, **sections)


@pytest.fixture(scope="module")
def ranked(store: Store, config: Pipeline) -> list[tuple[Plan, RankingPlan]]:
    """The pipeline at every point, in their order."""
    found = []
    for settings in SETTINGS:
        plan = make_plan(at(config, settings), store)
        trained(store, plan)
        ending = plan_ranking("tiny", plan, [], plan.cells, [])
        compared = [s for s in ending.steps if s.stage in ("curve", "law", "prediction", "ranking")]
        project.make_all(store, compared)
        found.append((plan, ending))
    return found


def step(config: Pipeline, ranked: list[tuple[Plan, RankingPlan]], **failed: str) -> Step:
    tried = [
        PointResult(settings, None if (why := failed.get(f"p{i}", "")) else ending, why)
        for i, (settings, (_, ending)) in enumerate(zip(SETTINGS, ranked, strict=True))
    ]
    return ablation.step("tiny", tried, public(config))


def tables(store: Store, made: Step) -> dict[str, pd.DataFrame]:
    project.make_all(store, [made])
    return {name: store.table(made.ref, name) for name in ("points", "candidates", "keys")}


def test_points_share_the_cells_that_a_setting_does_not_touch(ranked):
    (own, ending), (same, other), (trained, _) = ranked
    assert own.cells == same.cells
    assert ending.ref("curve") == other.ref("curve")
    assert not {s.ref for s in own.cells.values()} & {s.ref for s in trained.cells.values()}


def test_the_tables_are_what_the_rankings_say(store, config, ranked):
    found = tables(store, step(config, ranked))
    for place, (_, ending) in enumerate(ranked):
        rows = project.answers(store, ending).query("predictor == 'stack'").set_index("candidate")
        own = store.table(ending.ref("ranking"), "scores").query("predictor == 'stack'").iloc[0]
        point = found["points"].iloc[place]
        assert json.loads(point["settings"]) == SETTINGS[place]
        assert (point["smallest"], point["budget"], point["target"]) == (4, 512, 2048)
        np.testing.assert_allclose(
            [point["pearson"], point["rmse_log"]], [own["pearson"], own["rmse_log"]]
        )
        mine = found["candidates"].query(f"point == {place}").set_index("candidate")
        assert list(mine.index) == list(rows.sort_values("rank").index)
        for column in ("predicted", "measured", "p_best"):
            np.testing.assert_array_equal(mine[column], rows[column][mine.index])
        fits = store.table(ending.ref("law"), "fits").query("law == 'rectified'")
        sizes = fits.set_index("candidate")["transition_size"]
        np.testing.assert_array_equal(mine["transition"], sizes[mine.index])
    first, last = (project.answers(store, ending) for _, ending in (ranked[0], ranked[2]))
    truths = [
        t.query("predictor == 'stack'").set_index("candidate")["measured"] for t in (first, last)
    ]
    expected = scores.kendall(truths[0].to_numpy(), truths[1][truths[0].index].to_numpy())
    assert found["points"]["truth_kendall"][2] == pytest.approx(expected)


def test_the_truths_move_as_the_laws_say(store, config, ranked):
    """After two epochs middle is before narrow: one pair of three is turned."""
    found = tables(store, step(config, ranked))
    keys = found["keys"].set_index("key")
    assert keys["truth_kendall_low"]["law.tau"] == 1
    assert keys["truth_kendall_low"]["finetune.epochs"] == pytest.approx(1 / 3)
    assert list(found["points"]["choice"]) == ["narrow", "narrow", "middle"]
    assert list(found["points"]["regret"]) == [0, 0, 0]


def test_the_transitions_are_those_of_the_laws(store, config, ranked):
    """D* = D_l² with β = .5: 25, 100, 225, and 400, 25, 625 after two epochs."""
    found = tables(store, step(config, ranked))
    np.testing.assert_allclose(found["points"]["transition"], [100, 100, 400], rtol=0.2)
    assert list(found["points"]["transition_seen"]) == [3, 3, 3]
    keys = found["keys"].set_index("key")
    assert keys["transition_move_high"]["law.tau"] == 0
    for end in ("low", "high"):  # 4 doublings of narrow, 2 of middle, 1.5 of wide
        moved = keys[f"transition_move_{end}"]["finetune.epochs"]
        assert moved == pytest.approx(2, abs=0.3)


def test_less_patience_begins_no_sooner(store, config, ranked):
    rows = tables(store, step(config, ranked))["candidates"].set_index(["point", "candidate"])
    starts = [rows["ats_transition"].loc[place].sort_index() for place in (0, 1)]
    assert (starts[0] <= starts[1]).all()
    assert (starts[0] < starts[1]).any()


def test_page_and_figure_stand_beside_the_tables(store, config, ranked):
    made = step(config, ranked)
    found = tables(store, made)
    page = (store.path(made.ref) / "ablation.html").read_text(encoding="utf-8")
    assert found["points"]["choice"][0] in page
    assert (store.path(made.ref) / "ablation.png").stat().st_size > 10_000


def test_a_failed_point_leaves_the_others(store, config, ranked):
    found = tables(store, step(config, ranked, p2="it diverged"))
    assert list(found["points"]["failed"]) == ["", "", "it diverged"]
    assert set(found["candidates"]["point"]) == {0, 1}
    assert list(found["keys"]["points"]) == [1, 0]


def test_the_key_is_what_is_compared(config, ranked):
    made = step(config, ranked)
    assert step(config, ranked).ref == made.ref
    assert step(config, ranked, p2="it diverged").ref != made.ref
    assert step(config, [ranked[0], ranked[1], ranked[1]]).ref != made.ref
    assert len(made.recipe.upstream) == 9
