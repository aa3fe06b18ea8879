"""Replays of tables of losses: what is asked, what is made of it, and what users get wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lensllm.config import configfile
from lensllm.config.sections import Replay
from lensllm.core.errors import ConfigError, DataError, LensError
from lensllm.curves.curve import curves_from_cells
from lensllm.predictors import AtS
from lensllm.store.artifacts import Store
from tasks.base.goal import Goal
from tasks.base.plan import RankingPlan
from tasks.planning import replay
from tasks.stages import losses
from tests.tasks import project

ALL = [200 * 2**k for k in range(14)]
NAMES, SIZES = ("org/slow", "org/crossing", "flat", "noisy"), (100, 200, 400, 800, 1600, 3200, 6400)
LEVEL, SLOPE = (3.0, 3.4, 2.8, 3.1), (0.06, 0.15, 0.01, 0.05)


def power_laws(seeds: int = 1) -> pd.DataFrame:
    """ "flat" leads while small, "org/crossing" at the last size."""
    draw = np.random.default_rng(0)
    rows = [
        (name, size, level * (size / 100) ** -slope * np.exp(0.002 * draw.standard_normal()), seed)
        for name, level, slope in zip(NAMES, LEVEL, SLOPE, strict=True)
        for size in SIZES
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows, columns=["candidate", "size", "loss", "seed"])


def asked(table: Path | str, **options: Any) -> Replay:
    """As the command line asks."""
    ranking = {name: options.pop(name) for name in ("predictor", "prior") if name in options}
    return configfile.replay({"table": str(table), "ranking": ranking, **options})


def goal(store: Store, settings: Replay) -> Goal:
    replay.check(settings, store)
    return replay.goal(settings, store, losses.step(settings.table).ref)


def concluded(store: Store, settings: Replay) -> RankingPlan:
    """Everything but the report, made."""
    wanted = goal(store, settings)
    ending = replay.plan_ranking(wanted, store, losses.step(settings.table).ref)
    project.make_all(store, [step for step in ending.steps if step.stage != "report"])
    return ending


# --- the goal -------------------------------------------------------------------------------------


def test_the_target_is_the_largest_size_and_the_budget_an_eighth_of_it(store: Store):
    wanted = goal(store, asked("flan"))
    assert (wanted.name, wanted.target) == ("replay-flan", 1_638_400)
    assert wanted.budgets == (204_800,)
    assert (wanted.ranking.metric, wanted.ranking.predictor) == ("nats_per_token", "stack")


def test_all_budgets_have_five_sizes_and_save_something(store: Store):
    wanted = goal(store, asked("flan", all_budgets=True))
    assert wanted.budgets == (3200, 6400, 12_800, 25_600, 51_200, 102_400, 204_800)


@pytest.mark.parametrize(
    ("options", "target", "budgets"),
    [
        ({"budget": 25_600}, 1_638_400, [25_600]),
        ({"budget": 30_000}, 1_638_400, [25_600]),  # the largest size within it
        ({"budget": 819_200}, 1_638_400, [819_200]),
        ({"target": 6400}, 6400, [800]),
        ({"target": 3200}, 3200, [1600]),  # an eighth would leave two sizes
        ({"target": 10**7}, 10**7, [819_200]),
        ({"target": 3200, "budget": 1000}, 3200, [800]),
        ({"budget": 12_800, "all_budgets": True}, 1_638_400, [3200, 6400, 12_800]),
        ({"budget": 400_000, "all_budgets": True}, 1_638_400, ALL[4:11]),
        ({"budget": 800, "all_budgets": True}, 1_638_400, [800]),
        ({"budget": 819_200, "all_budgets": True}, 1_638_400, ALL[4:13]),
    ],
)
def test_budget_and_target_as_asked(
    store: Store, options: dict[str, Any], target: int, budgets: list[int]
):
    wanted = goal(store, asked("flan", **options))
    assert (wanted.target, list(wanted.budgets)) == (target, budgets)


def test_a_file_is_called_by_its_name(store: Store, tmp_path: Path):
    path = tmp_path / "my losses (v2).csv"
    power_laws().to_csv(path, index=False)
    assert goal(store, asked(path)).name == "replay-my-losses-v2-"


# --- the answer -----------------------------------------------------------------------------------


def test_the_budget_hides_everything_above_it(store: Store, tmp_path: Path):
    told, changed = power_laws(), power_laws()
    changed.loc[changed["size"].between(801, 6399), "loss"] *= 7
    answers = []
    for name, table in (("told", told), ("changed", changed)):
        table.to_csv(tmp_path / f"{name}.csv", index=False)
        ending = concluded(store, asked(tmp_path / f"{name}.csv"))
        answers.append(store.table(ending.ref("ranking"), "predictions"))
    pd.testing.assert_frame_equal(*answers)
    assert {"org/crossing"} == set(answers[0].query("measured_rank == 1")["candidate"])
    assert answers[0].query("predictor == 'stack'")["candidate"].iloc[0] == "org/crossing"


@pytest.mark.parametrize("law", [{"gamma": 5}, {"tau": 0.5}, {"gamma": 2, "tau": 50.0}])
def test_the_settings_of_ats_reach_its_predictions(store: Store, law: dict[str, float]):
    """And those of what is made of it, through the backtest that weighs them; nothing else's."""
    plain, other = (
        store.table(concluded(store, asked("flan", law=chosen)).ref("ranking"), "predictions")
        for chosen in ({}, law)
    )
    rows = [t.set_index(["predictor", "candidate"])["predicted"] for t in (plain, other)]
    moved = {name for name, same in (rows[0] == rows[1].reindex(rows[0].index)).items() if not same}
    assert {"ats", "blend", "stack"} == {name for name, _ in moved}
    known = losses.step("flan")
    curves = curves_from_cells(store.table(known.ref, "cells"), "nats_per_token", 204_800)
    expected = AtS(**law).predict(curves, np.array([1_638_400.0])).loss[:, 0]
    np.testing.assert_array_equal(expected, rows[1]["ats"][list(curves.candidates)])


def test_every_form_of_a_file_has_the_same_answer(store: Store, tmp_path: Path):
    """Windows line ends and byte-order mark, tabs, Parquet, and a column per size."""
    table = power_laws()
    text = table.to_csv(index=False)
    (tmp_path / "plain.csv").write_text(text)
    (tmp_path / "windows.csv").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    (tmp_path / "tabs.tsv").write_text(text.replace(",", "\t"))
    table.to_parquet(tmp_path / "losses.parquet")
    wide = table.pivot(index="candidate", columns="size", values="loss").loc[list(NAMES)]
    wide.to_csv(tmp_path / "wide.csv")
    expected = None
    for path in sorted(tmp_path.glob("*.*")):
        ending = concluded(store, asked(path))
        found = store.table(ending.ref("ranking"), "predictions")
        expected = found if expected is None else expected
        pd.testing.assert_frame_equal(expected, found)
    assert len(store.refs("losses")) == 5


def test_repeats_are_told_apart_by_their_seed(store: Store, tmp_path: Path):
    path = tmp_path / "repeats.csv"
    power_laws(seeds=3).to_csv(path, index=False)
    ending = concluded(store, asked(path))
    cells = store.table(ending.ref("curve"), "cells")
    assert len(NAMES) * len(SIZES) * 3 == len(cells)
    predictions = project.answers(store, ending).query("predictor == 'ats'").set_index("candidate")
    mean = power_laws(seeds=3).query("size == 6400").groupby("candidate")["loss"].mean()
    assert predictions["measured"].to_dict() == pytest.approx(mean.to_dict())


def test_a_target_beyond_the_table_is_predicted_and_not_scored(store: Store, tmp_path: Path):
    path = tmp_path / "losses.csv"
    power_laws().to_csv(path, index=False)
    ending = concluded(store, asked(path, target=100_000))
    assert store.table(ending.ref("ranking"), "scores").empty
    rows = project.answers(store, ending)
    assert rows["measured"].isna().all()
    assert set(rows["budget"]) == {6400}


@pytest.mark.parametrize("policy", ["halving", "adaptive"])
def test_a_policy_is_played_within_the_budget_and_ranked_from(
    store: Store, tmp_path: Path, policy: str
):
    path = tmp_path / "losses.csv"
    untrained = pd.DataFrame({"candidate": NAMES, "size": 0, "loss": 4.0, "seed": 0})
    pd.concat([untrained, power_laws()]).to_csv(path, index=False)
    ending = concluded(store, asked(path, policy=policy, budget=3200))
    assert ending.steps[0].stage == "simulation"
    played = ending.steps[0].ref
    decisions, cost = store.table(played, "decisions"), store.table(played, "cost").iloc[0]
    cells = store.table(ending.ref("curve"), "cells")
    dropped = decisions.loc[decisions["dropped"] != "", "candidate"]
    assert len(dropped) > 0
    within = cells[cells["size"] <= 3200]
    assert within.loc[within["candidate"].isin(dropped), "size"].max() == 1600
    assert (cells["size"] == 6400).sum() == len(NAMES)  # the truth, to compare with
    assert (cells["size"] == 0).sum() == len(NAMES)
    assert cost["spent_examples"] == within["size"].sum()
    assert cost["full_examples"] == 6400 * len(NAMES)
    rows = project.answers(store, ending).set_index("candidate")
    assert set(rows.index) == set(NAMES)
    assert set(rows.index[rows["cautious"].isna()]) == set(dropped)  # none of them is chosen
    assert ending["report"][""].recipe.upstream["simulation"] == played


def test_the_policy_all_is_no_simulation(store: Store):
    settings = asked("flan")
    ending = replay.plan_ranking(goal(store, settings), store, losses.step("flan").ref)
    assert "simulation" not in {step.stage for step in ending.steps}
    assert ending.ref("curve") == losses.step("flan").ref


def test_another_name_of_the_same_file_computes_nothing_again(store: Store, tmp_path: Path):
    for name in ("one.csv", "two.csv"):
        power_laws().to_csv(tmp_path / name, index=False)
    one, two = (concluded(store, asked(tmp_path / name)) for name in ("one.csv", "two.csv"))
    assert one.ref("checks") == two.ref("checks")
    assert one.ref("report") != two.ref("report")  # it names the file


# --- mistakes -------------------------------------------------------------------------------------

GOOD = power_laws()


def bad(column: str, value: object, row: int = 3) -> pd.DataFrame:
    table = GOOD.astype({column: object})
    table.loc[row, column] = value
    return table


@pytest.mark.parametrize(
    ("table", "options", "sentence"),
    [
        ("nowhere.csv", {}, r"nowhere.csv: no such file"),
        ("flann", {}, r"flann: neither a file nor a published table \(did you mean 'flan'\?\)"),
        (GOOD[GOOD["candidate"] == "flat"], {}, r"losses of one candidate only \('flat'\): give"),
        (
            GOOD[GOOD["size"] <= 200],
            {},
            r"needs losses at 3 training sizes above 0 and the table has 100, 200: add sizes",
        ),
        (GOOD[GOOD["size"] <= 400], {}, r"the target 400 leaves 2 of the sizes 100, 200, 400"),
        (GOOD, {"budget": 300}, r"the budget 300 leaves 2 of the sizes 100, .* needs 3: raise it"),
        (GOOD, {"budget": 50}, r"the budget 50 leaves 0 of the sizes"),
        (GOOD, {"budget": 1}, r"^--budget: .*greater than or equal to 2, not 1$"),
        (GOOD, {"budget": 6400}, r"--budget 6,400 is not below the target 6,400"),
        (GOOD, {"budget": 900, "target": 800}, r"--budget 900 is not below the target 800"),
        (GOOD, {"target": 400}, r"the target 400 leaves 2 of the sizes"),
        (bad("loss", "two"), {}, r"line 5, column 'loss': 'two' is no number"),
        (bad("loss", -1.5), {}, r"line 5, .*loss of org/slow at D = 800 is -1.5 and must be posi"),
        (bad("loss", 0), {}, r"line 5, .*loss of org/slow at D = 800 is 0 and must be positive"),
        (bad("size", "many"), {}, r"line 5, column 'size': 'many' is no training size"),
        (bad("size", 400), {}, r"org/slow, D = 400, seed 0 stands in line 4 and in line 5"),
        (GOOD.drop(columns="size"), {}, r"no column 'size' .*, nor columns named by"),
        (GOOD, {"predictor": "stak"}, r"--predictor: no predictor 'stak' \(did you mean 'stack'"),
        (GOOD, {"predictor": "lensllm"}, r"lensllm cannot answer\. .*needs the kernel of every"),
        (GOOD, {"predictor": "pl_alpha"}, r"pl_alpha cannot answer\. .*needs the pretrained wei"),
        (
            GOOD,
            {"predictor": "rectified", "budget": 400},
            r"^--predictor rectified needs 4 sizes and there are 3 up to the budget 400: choose ano",
        ),
        (GOOD, {"policy": "nonsense"}, r"^--policy: .*'adaptive' or 'halving', not 'nonsense'$"),
        (GOOD, {"prior": "past"}, r"^--prior: .*'default' or 'store', not 'past'$"),
        (GOOD, {"policy": "halving", "all_budgets": True}, r"^--all-budgets .* --policy"),
    ],
)
def test_a_mistake_is_one_sentence(
    store: Store, tmp_path: Path, table: pd.DataFrame | str, options: dict[str, Any], sentence: str
):
    path: Path | str = tmp_path / "losses.csv"
    if isinstance(table, str):
        path = table if table == "flann" else tmp_path / table
    else:
        table.to_csv(path, index=False)
    with pytest.raises(LensError, match=sentence) as caught:
        concluded(store, asked(path, **options))
    assert isinstance(caught.value, ConfigError | DataError)
    assert "\n" not in str(caught.value)


def test_a_table_without_a_header_is_one_sentence(store: Store, tmp_path: Path):
    path = tmp_path / "losses.csv"
    GOOD.to_csv(path, index=False, header=False)
    with pytest.raises(DataError, match=r"first line looks like data .* put a header above it"):
        goal(store, asked(path))


@pytest.mark.parametrize("policy", ["adaptive", "halving"])
def test_a_policy_with_a_predictor_that_cannot_answer(store: Store, tmp_path: Path, policy: str):
    path = tmp_path / "losses.csv"
    GOOD.to_csv(path, index=False)
    with pytest.raises(DataError, match="needs the kernel of every candidate"):
        concluded(store, asked(path, policy=policy, predictor="lensllm", budget=3200))
