"""Grids of settings: which points there are, and what users get wrong."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensllm.config import configfile, grid
from lensllm.core.errors import ConfigError

TEXT = """
defaults:
  candidates: [a/one, b/two]
  sweep: {max: 800, target: 1600}
pipelines:
  p:
    finetune: {batch_size: 8}
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("grid") / "pipelines.yaml"
    path.write_text(TEXT)
    return path


def settings(found: tuple[grid.Point, ...]) -> list[dict]:
    return [dict(point.settings) for point in found]


def test_the_pipeline_stands_first_and_every_combination_once(file: Path):
    found = grid.read(file, "p", ["law.tau=3,8", "finetune.batch_size=16"])
    assert settings(found) == [
        {"law.tau": tau, "finetune.batch_size": size}
        for tau, size in [(5, 8), (3, 8), (3, 16), (5, 16), (8, 8), (8, 16)]
    ]
    assert found[0].config == configfile.load(file, "p")


def test_its_own_value_may_be_named_too(file: Path):
    assert grid.read(file, "p", ["law.tau=3,5,8"]) == grid.read(file, "p", ["law.tau=8,3"])


def test_every_point_is_what_its_settings_would_give(file: Path):
    over = ["finetune.learning_rate=5e-4,1e-05", "data.packages=[stdlib, numpy],[pandas]"]
    for point in grid.read(file, "p", [*over, "sweep.target=full"]):
        assert point.config == configfile.load(file, "p", point.overrides)
        assert point.config.finetune.learning_rate == point.settings["finetune.learning_rate"]
        assert list(point.config.data.packages) == point.settings["data.packages"]
        assert point.config.sweep.target == point.settings["sweep.target"]


def test_an_override_moves_the_pipeline_itself(file: Path):
    found = grid.read(file, "p", ["law.tau=3"], ["law.tau=8", "seed=2"])
    assert settings(found) == [{"law.tau": 8}, {"law.tau": 3}]
    assert {2} == {point.config.seed for point in found}


def test_words_keep_their_order_behind_the_pipelines_own(file: Path):
    found = grid.read(file, "p", ["ranking.predictor=rectified,ats"])
    assert [p.settings["ranking.predictor"] for p in found] == ["stack", "rectified", "ats"]


def test_labels_say_what_is_set_in_few_characters(file: Path):
    over = ["law.tau=8", "sweep.zero_shot=false", "finetune.learning_rate=1e-05"]
    assert (
        grid.read(file, "p", over)[0].label
        == "law.tau=5, sweep.zero_shot=true, finetune.learning_rate=0.001"
    )


@given(
    taus=st.lists(st.floats(0.01, 100), min_size=1, max_size=4, unique=True),
    sizes=st.lists(st.integers(1, 64), min_size=1, max_size=4, unique=True),
)
def test_the_grid_is_the_product_of_the_values_and_the_pipelines_own(file: Path, taus, sizes):
    taus, sizes = [t for t in taus if t != 5], [s for s in sizes if s != 8]
    if not taus or not sizes:
        return
    over = [
        f"law.tau={','.join(map(repr, taus))}",
        f"finetune.batch_size={','.join(map(str, sizes))}",
    ]
    found = [tuple(point.values()) for point in settings(grid.read(file, "p", over))]
    assert found[0] == (5, 8)
    assert {(t, s) for t in [5, *taus] for s in [8, *sizes]} == set(found)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("over", "sentence"),
    [
        ([], r"^name a setting to vary: --over KEY; write it as KEY.PATH=VALUE,VALUE"),
        (["law.tau"], r"^--over law.tau: write it as KEY.PATH=VALUE,VALUE, e.g. --over"),
        (["=3"], r"^--over =3: write it as"),
        (["law.tau="], r"^--over law.tau=: no value"),
        (["law.tau=3,,8"], r"^--over law.tau=3,,8: the values are not YAML with commas between"),
        (["law.tau=3],[8"], r"not YAML"),
        (["law.tau=3,8,3.0"], r"^--over law.tau: 3 is there twice; name it once"),
        (["law.tau=3", "law.tau=8"], r"^--over law.tau is given twice; put all its values into"),
        (["law.tau=5.0"], r"^--over law.tau=5: the pipeline has it; name another"),
        (["law.tua=3"], r"^--over law.tua=3: .*unknown key 'law.tua' \(did you mean 'tau'\?\)"),
        (["lwa.tau=3"], r"unknown key 'lwa' \(did you mean 'law'\?\)"),
        (["law.tau=3,0"], r"^--over law.tau=0: .*'law.tau': input should be greater than 0, not 0"),
        (["law.gamma=1"], r"greater than or equal to 2, not 1"),
        (["law.tau=many"], r"'law.tau'.*not 'many'"),
        (["law=3"], r"^--over law=3: .*'law': input should be a valid dictionary"),
        (["law={tau: 3}"], r"^--over law is a section; vary one of its settings: .*law.tau"),
        (["sweep.max=400,3200"], r"^--over sweep.max=3200: .*target \(1600\) is not above"),
        (["engine.slots=1,2"], r"^--over engine.slots: it changes no ranking"),
        (["curvature.examples=2,4"], r"it changes no ranking"),
        (["description=x"], r"it changes no ranking"),
        (["candidates=[a/one],[b/two]"], r"rank the same candidates"),
        (
            ["sweep.min=100,400", "sweep.max=200"],
            r"^--over sweep.min=400, sweep.max=200: .*min \(400\) is above max \(200\)",
        ),
    ],
)
def test_a_mistake_is_one_sentence(file: Path, over: list[str], sentence: str):
    with pytest.raises(ConfigError, match=sentence) as caught:
        grid.read(file, "p", over)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("over", "sentence"),
    [
        (["law.tau=" + "[" * 100_000], r"are not YAML .*\(lists .* nested more than 100 deep"),
        (["law.tau=" + "9" * 5001], r"are not YAML .*\('9+…' cannot be read as int"),
        (["law.tau=2024-99-99"], "'2024-99-99' cannot be read as timestamp"),
        (["law.tau=" + "3," * 2000], r"--over law.tau: 2,000 values, of at most 1,000"),
        (
            [f"{key}={','.join(map(str, range(10, 50)))}" for key in ("law.tau", "seed")],
            "1,681 combinations of values, of at most 1,000",
        ),
    ],
    ids=range(5),
)
def test_values_without_end_are_one_sentence(file: Path, over: list[str], sentence: str):
    with pytest.raises(ConfigError, match=sentence) as caught:
        grid.read(file, "p", over)
    assert len(str(caught.value)) < 500
