"""What the last stages make of the curvature: the tables of all cells, findings, and the report.

The cells are made up, on the curves of a published table; measuring is tested where it is done.
"""

from pathlib import Path

import pandas as pd
import pytest

from lensllm.config.sections import Replay
from lensllm.store.artifacts import Recipe, Ref, Store, write_table
from lensllm.store.schemas import schema
from tasks.base.goal import Goal
from tasks.base.plan import RankingPlan
from tasks.base.step import BuildContext, Cell, roles
from tasks.planning import replay
from tasks.stages import STAGES, curvature, losses
from tests.tasks import project

NAMES = ("gpt2", "facebook/bart-base")
SIZES = (200, 400, 800, 1600)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("store") / "artifacts")
    store.prepare()
    return store


@pytest.fixture(scope="module")
def goal(store: Store) -> Goal:
    asked = Replay(table="gigaword")
    replay.check(asked, store)
    return replay.goal(asked, store, losses.step("gigaword").ref)


@pytest.fixture(scope="module")
def ending(store: Store, goal: Goal) -> RankingPlan:
    """A replay up to its ranking, which knows nothing of curvature."""
    ending = replay.plan_ranking(goal, store, losses.step("gigaword").ref)
    project.make_all(store, [step for step in ending.steps if step.stage != "report"])
    return ending


@pytest.fixture(scope="module")
def cells(store: Store) -> dict[str, Ref]:
    """Upstream roles of two candidates at four sizes; in its rows a candidate has another name."""
    found = {}
    for name in NAMES:
        for size in SIZES:
            cell = Cell(name, size, 0)
            found[str(cell)] = _cell(store, cell)
    return roles("curvature", found)


def _cell(store: Store, cell: Cell) -> Ref:
    """A term (1 if gpt2, else 2) n^(−.25) on a training loss of 4 and 9: the latter is vacuous."""
    first = cell.candidate == NAMES[0]
    train, term = (4.0, cell.size**-0.25) if first else (9.0, 2 * cell.size**-0.25)
    bound = {
        **dict.fromkeys(schema("curvature/bound").names, 0), "candidate": "another",
        "size": cell.size, "loss_bound": 12.0, "uniform_nats_per_token": 8.0, "train_term": train,
        "curvature_term": term, "bound": train + term, "test_nats_per_token": train, "gap": 0.1,
    }  # fmt: skip
    layer = {
        **dict.fromkeys(schema("curvature/layers").names, 1), "layer": "h.0",
        "trace": 100.0 if first else float(cell.size),
    }  # fmt: skip
    nodes = [{"eigenvalue": 2.0, "weight": 1.0}] if cell.size == SIZES[-1] else []
    recipe = Recipe("curvature", 0, {"cell": str(cell)})

    def build(folder: Path) -> None:
        write_table(folder, "curvature/bound", [bound])
        write_table(folder, "curvature/layers", [layer])
        write_table(folder, "curvature/density", nodes)

    store.make(recipe, build)
    return recipe.ref


def work(store: Store, upstream: dict[str, Ref]) -> BuildContext:
    return BuildContext(store, {}, upstream, {}, store.root, Ref("none", ""))


def test_tables_are_read_under_the_names_of_this_pipeline(store: Store, cells: dict[str, Ref]):
    bounds = curvature.read(work(store, cells), "bound")
    assert [(n, s, 0) for n in NAMES for s in SIZES] == list(
        bounds[["candidate", "size", "repeat"]].itertuples(index=False, name=None)
    )
    layers = curvature.read(work(store, cells), "layers")
    assert list(layers.columns) == [
        *schema("curvature/layers").names,
        "candidate",
        "size",
        "repeat",
    ]


def test_cells_without_a_row_are_passed_over(store: Store, cells: dict[str, Ref]):
    density = curvature.read(work(store, cells), "density")
    assert list(NAMES) == list(density["candidate"])
    assert {SIZES[-1]} == set(density["size"])


def test_no_cells_are_no_columns(store: Store):
    assert curvature.read(work(store, {}), "layers").equals(pd.DataFrame())


def test_a_ranking_without_curvature_says_nothing_of_it(store: Store, ending: RankingPlan):
    found = store.table(ending.ref("checks"), "findings")
    assert not (found["code"] > "LENS200").any()


@pytest.fixture(scope="module")
def examined(store: Store, goal: Goal, ending: RankingPlan, cells: dict[str, Ref]) -> RankingPlan:
    """The same ranking with the curvature of the cells."""
    measured = {role.partition(":")[2]: ref for role, ref in cells.items()}
    failed = [("curvature facebook/bart-base · D=3200 · repeat 0", "not enough memory")]
    plan = RankingPlan(STAGES, goal, {**ending.given, "curvature": measured}, failed=failed)
    project.make_all(store, plan.steps)
    return plan


def test_checks_are_told_of_it(store: Store, ending: RankingPlan, examined: RankingPlan):
    assert examined.ref("checks") != ending.ref("checks")
    found = store.table(examined.ref("checks"), "findings")
    mine = found[found["code"] > "LENS200"]
    assert {("LENS202", NAMES[1]), ("LENS205", NAMES[1])} == set(
        mine[["code", "candidate"]].itertuples(index=False, name=None)
    )


def test_the_report_shows_it(store: Store, examined: RankingPlan):
    text = (store.path(examined.ref("report")) / "report.html").read_text(encoding="utf-8")
    section = text[text.index('<section id="curvature">') :].partition("</section>")[0]
    for words in (
        "4 of 8 bounds, one",
        "vacuous</span>",
        "Across the curve",
        "Spectral density",
        "Layers of gpt2",
    ):
        assert words in section
