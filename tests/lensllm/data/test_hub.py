"""Hub data sets, as copies in folders: the same calls as for those of the hub."""

from pathlib import Path

import datasets
import huggingface_hub.constants
import pandas as pd
import pytest

from lensllm.config.sections import Data
from lensllm.core.errors import DataError
from lensllm.data import hub, sources

README = """---
configs:
- config_name: short
  data_files:
  - {split: train, path: short/train.jsonl}
  - {split: test, path: short/test.jsonl}
- config_name: long
  data_files:
  - {split: train, path: long/train.jsonl}
---
"""


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, and a cache of its own."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """A copy of a data set with two configurations and splits."""
    folder = tmp_path / "org" / "name"
    rows = {"short/train.jsonl": ["a", "b"], "short/test.jsonl": ["c"], "long/train.jsonl": ["d"]}
    for name, prompts in rows.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        frame = pd.DataFrame({"prompt": prompts, "completion": "x"})
        frame.to_json(path, orient="records", lines=True)
    (folder / "README.md").write_text(README)
    return folder


def prompts(loaded: sources.Loaded) -> list[str]:
    return loaded.examples["prompt"].tolist()


def test_configurations_and_splits_of_a_mirror(mirror: Path):
    data = Data(source=f"hub:{mirror}", config="short", test_split="test")
    loaded = sources.load(data)
    assert loaded.examples.groupby("split")["prompt"].apply(list).to_dict() == {
        "train": ["a", "b"],
        "test": ["c"],
    }
    assert loaded.examples["file"].tolist() == ["name:train", "name:train", "name:test"]
    assert prompts(sources.load(Data(source=f"hub:{mirror}", config="long"))) == ["d"]


def test_what_save_to_disk_wrote_is_read_without_a_prefix(tmp_path: Path):
    both = {name: datasets.Dataset.from_dict({"text": [name]}) for name in ("train", "test")}
    datasets.DatasetDict(both).save_to_disk(tmp_path / "saved")
    assert sources.load(Data(source=str(tmp_path / "saved"))).examples["completion"][0] == "train"
    other = Data(source=str(tmp_path / "saved"), split="test")
    assert sources.load(other).examples["completion"].tolist() == ["test"]
    with pytest.raises(DataError, match="has no split 'dev'; it has train, test"):
        sources.load(Data(source=str(tmp_path / "saved"), split="dev"))


def test_the_fingerprint_follows_the_files_configuration_and_split(mirror: Path):
    one = Data(source=f"hub:{mirror}", config="short")
    assert sources.fingerprint(one) == sources.fingerprint(one)
    for changes in ({"config": "long"}, {"split": "test"}, {"test_split": "test"}):
        other = Data.model_validate(one.model_dump() | changes)
        assert sources.fingerprint(other) != sources.fingerprint(one)
    before = sources.fingerprint(one)
    (mirror / "short" / "train.jsonl").write_text('{"prompt": "e", "completion": "x"}\n')
    assert sources.fingerprint(one) != before


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "set data.config"),
        ({"config": "shrot"}, "set data.config"),
        ({"config": "short", "split": "dev"}, "set data.split"),
        ({"config": "short", "revision": "v2"}, "is a folder and has no revisions"),
    ],
)
def test_a_mistake_about_a_mirror_is_a_sentence(mirror: Path, changes: dict, sentence: str):
    data = Data.model_validate({"source": f"hub:{mirror}", **changes})
    first = sources.fingerprint if "revision" in changes else sources.load
    with pytest.raises(DataError, match=sentence):
        first(data)


def test_a_damaged_mirror_is_a_sentence_with_the_cause(mirror: Path):
    (mirror / "long" / "train.jsonl").write_text("not json")
    with pytest.raises(DataError, match="JSON parse error"):
        sources.load(Data(source=f"hub:{mirror}", config="long"))


@pytest.mark.parametrize("source", ["hub:org/none", "org/none"])
def test_without_network_and_copy_the_sentence_says_what_to_do(source: str):
    with pytest.raises(DataError, match="org/none is no folder here, the hub cannot be reached"):
        sources.fingerprint(Data(source=source))


def test_the_commit_that_the_cache_knows_is_the_identity(tmp_path: Path):
    refs = tmp_path / "hub" / "datasets--org--name" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("c" * 40)
    assert hub.identity("hub:org/name", None, "train", None)["commit"] == "c" * 40
    assert hub.identity("org/name", None, "train", "d" * 40)["commit"] == "d" * 40


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("hub:a", True),
        ("org/name", True),
        ("org/name.jsonl", False),
        ("./org/name", False),
        ("name", False),
        ("a/b/c", False),
    ],
)
def test_what_reads_like_a_name_of_the_hub(source: str, expected: bool):
    assert hub.is_hub(source) is expected


def test_a_name_that_is_none_is_a_sentence():
    with pytest.raises(DataError, match="neither a folder here nor org/name"):
        sources.fingerprint(Data(source="hub:just-a-name"))
