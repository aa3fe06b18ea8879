"""``*`` in a candidate's model."""

from pathlib import Path
from typing import Any

import pytest

from lensllm.config import configfile
from lensllm.core.errors import ConfigError


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in ("small", "large", "my model", ".hidden"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "notes").mkdir()
    (tmp_path / "README.md").touch()
    (tmp_path / "tiny.Q4_1.gguf").touch()
    return tmp_path


def expand(*entries: Any) -> list[Any]:
    return list(configfile.expand({"candidates": list(entries)})["candidates"])


def test_every_checkpoint_of_a_folder_is_a_candidate_in_the_order_of_their_names(models: Path):
    found = expand(f"{models}/*")
    assert [one["name"] for one in found] == ["large", "my-model", "small", "tiny.Q4_1"]
    assert [Path(one["model"]).name for one in found][:2] == ["large", "my model"]


def test_overrides_are_those_of_all(models: Path):
    shared = {"method": "lora", "lora": {"rank": 4}}
    found = expand({"model": f"{models}/[ls]*", "finetune": shared}, "org/other")
    assert [one["finetune"] for one in found[:2]] == [shared, shared]
    assert found[2:] == ["org/other"]


def test_what_is_no_pattern_or_no_list_stays_as_it_is():
    entries: list[Any] = ["builtin:a", {"name": "b", "model": "c/d"}, 3, {"model": 5}]
    assert expand(*entries) == entries
    assert configfile.expand({"candidates": "x/*"}) == {"candidates": "x/*"}
    assert configfile.expand({}) == {}


def _file(folder: Path, entry: str) -> Path:
    path = folder / "pipelines.yaml"
    path.write_text(f"pipelines: {{p: {{candidates: [{entry}]}}}}")
    return path


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("'{models}/nothing*'", r"pipeline 'p': candidates: '.*nothing\*' matches no folder with"),
        ("'{models}/no*'", r"matches no folder with a config.json, only .*/notes; write it for"),
        ("{{name: a, model: '{models}/*'}}", "leave out the name 'a'"),
        ("'{models}/*', '{models}/small'", "small is listed twice; give it another name"),
    ],
)
def test_a_mistake_is_one_sentence(models: Path, entry: str, sentence: str):
    with pytest.raises(ConfigError, match=sentence):
        configfile.load(_file(models, entry.format(models=models)), "p")


def test_two_folders_that_would_have_one_name_are_refused(models: Path):
    (models / "my-model").mkdir()
    (models / "my-model" / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="my-model is listed twice"):
        configfile.load(_file(models, f"'{models}/*'"), "p")
