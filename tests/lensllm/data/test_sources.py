"""Data files: the three kinds, what identifies them, and what users get wrong."""

from pathlib import Path

import pandas as pd
import pytest

from lensllm.config import Data
from lensllm.data import sources
from lensllm.errors import DataError

ROWS = pd.DataFrame(
    {"question": ["a", "b", "a"], "answer": ["1", "2\nlines", "1"], "id": [1, 2, 3]}
)


def data(path: Path, **settings: str) -> Data:
    return Data(source=str(path), prompt="question", completion="answer", **settings)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_the_three_kinds_give_the_same_examples_without_duplicates(tmp_path: Path, kind: str):
    path = tmp_path / f"data.{kind}"
    match kind:
        case "jsonl":
            ROWS.to_json(path, orient="records", lines=True)
        case "csv":
            ROWS.to_csv(path, index=False, quoting=1)
        case "parquet":
            ROWS.to_parquet(path)
    if kind == "csv":  # a newline inside a CSV field needs a reader option most files do not
        path.write_text(path.read_text().replace("2\nlines", "2 lines"))
    loaded = sources.load(data(path))
    assert loaded["prompt"].tolist() == ["a", "b"]
    assert ["1", "2\nlines" if kind != "csv" else "2 lines"] == [
        str(v) for v in loaded["completion"]
    ]
    assert {""} == set(loaded["split"])


def test_the_fingerprint_follows_the_content_not_the_name(tmp_path: Path):
    one, two = tmp_path / "one.parquet", tmp_path / "two.parquet"
    ROWS.to_parquet(one)
    two.write_bytes(one.read_bytes())
    assert sources.fingerprint(data(one)) == sources.fingerprint(data(two))
    ROWS.head(2).to_parquet(two)
    assert sources.fingerprint(data(one)) != sources.fingerprint(data(two))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("no.jsonl", None, "no such file"),
        ("a.txt", "x", "is none of .jsonl, .csv, .parquet"),
        (
            "a.jsonl",
            '{"question": "a", "anwser": "b"}\n',
            r"no column 'answer' \(did you mean 'anwser'",
        ),
        (
            "a.jsonl",
            '{"question": "a", "answer": "b"}\n{"question": "c", "answer": " "}\n',
            "row 2",
        ),
        (
            "a.jsonl",
            '{"question": "a", "answer": 3}\n',
            "row 1 of column 'answer' is empty or no text",
        ),
        ("a.jsonl", "not json\n", "cannot be read as jsonl"),
        ("a.parquet", "not parquet", "cannot be read as parquet"),
        ("a.csv", "question,answer\n\xff,b\n", "row 1|cannot be read as csv"),
        ("a.jsonl", "", "cannot be read as jsonl"),
    ],
)
def test_a_bad_file_is_a_sentence(tmp_path: Path, name: str, content: str | None, sentence: str):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=sentence) as caught:
        sources.load(data(path))
    assert str(path) in str(caught.value)


def test_an_unknown_builtin_is_a_sentence():
    with pytest.raises(
        DataError, match="no 'builtin:poems'; there are builtin:docstrings, builtin:names"
    ):
        sources.load(Data(source="builtin:poems"))
