"""Sources: kinds of files, forms, splits, what identifies them, and what users get wrong."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lensllm.config.sections import Data
from lensllm.core.errors import DataError
from lensllm.data import sources

ROWS = pd.DataFrame(
    {"question": ["a", "b 🦀", "a"], "answer": ["1", "2\nlines", "1"], "id": [1, 2, 3]}
)
COLUMNS = {"prompt": "question", "completion": "answer"}


def data(path: Path | str, **settings: Any) -> Data:
    return Data.model_validate({"source": str(path), **COLUMNS, **settings})


def pairs(loaded: sources.Loaded) -> list[tuple[str, str]]:
    frame = loaded.examples
    return list(zip(frame["prompt"], frame["completion"], strict=True))


def lines(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet", "jsonl.gz", "csv.gz"])
def test_every_kind_gives_the_same_examples_without_duplicates(tmp_path: Path, kind: str):
    path = tmp_path / f"data.{kind}"
    match kind.removesuffix(".gz"):
        case "jsonl":
            ROWS.to_json(path, orient="records", lines=True)
        case "json":
            ROWS.to_json(path, orient="records")
        case "csv":
            ROWS.to_csv(path, index=False)
        case "tsv":
            ROWS.to_csv(path, index=False, sep="\t")
        case "parquet":
            ROWS.to_parquet(path)
    loaded = sources.load(data(path))
    assert pairs(loaded) == [("a", "1"), ("b 🦀", "2\nlines")]
    assert {""} == set(loaded.examples["split"])
    summary = loaded.summary.iloc[0]
    assert (summary["rows"], summary["distinct"], summary["kept"]) == (3, 2, 2)
    by_line = kind != "json" and kind != "parquet"
    header = "csv" in kind or "tsv" in kind
    assert loaded.examples["number"].tolist() == [1 + header, 2 + header if by_line else 2]


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path: Path):
    path = tmp_path / "data.csv"
    path.write_bytes(b"\xef\xbb\xbf" + 'question,answer\r\né,"1\r\n2"\r\n\r\nb,3\r\n'.encode())
    loaded = sources.load(data(path))
    assert pairs(loaded) == [("é", "1\n2"), ("b", "3")]
    assert loaded.examples["number"].tolist() == [2, 5]  # lines as an editor counts them


def test_json_with_an_object_per_line_is_read_as_such(tmp_path: Path):
    path = lines(tmp_path / "data.json", [{"question": "a", "answer": 3}])
    assert pairs(sources.load(data(path))) == [("a", "3")]


def test_a_folder_and_a_pattern_read_their_files_by_name(tmp_path: Path):
    for name in ("b", "a"):
        lines(tmp_path / f"{name}.jsonl", [{"question": name, "answer": "x"}])
    (tmp_path / "README.md").write_text("about")
    expected = [("a", "x"), ("b", "x")]
    assert pairs(sources.load(data(tmp_path))) == expected
    assert pairs(sources.load(data(tmp_path / "*.jsonl"))) == expected
    assert sources.load(data(tmp_path)).examples["file"].tolist() == ["a.jsonl", "b.jsonl"]


def test_a_folder_of_text_gives_its_paragraphs(tmp_path: Path):
    (tmp_path / "one.txt").write_bytes("First\r\nline.\r\n\r\n  \r\n\r\nSecond é.\r\n".encode())
    (tmp_path / "two.md").write_text("Third.\n\nSecond é.")
    loaded = sources.load(Data(source=str(tmp_path)))
    assert pairs(loaded) == [("", "First\nline."), ("", "Second é."), ("", "Third.")]
    assert loaded.examples["number"].tolist() == [1, 6, 1]
    assert loaded.summary["form"].tolist() == ["text"]


def test_chats_keep_the_turns_before_the_last_answer(tmp_path: Path):
    turns = [
        {"role": "system", "content": "Be brief."},
        {"from": "human", "value": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": [{"type": "text", "text": "Bye"}]},
        {"from": "gpt", "value": "See you"},
    ]
    one = lines(tmp_path / "a.jsonl", [{"messages": turns}])
    two = lines(tmp_path / "b.jsonl", [{"conversations": json.dumps(turns)}])
    for path in (one, two):
        row = sources.load(Data(source=str(path))).examples.iloc[0]
        assert row["completion"] == "See you"
        before = json.loads(row["messages"])
        assert [t["role"] for t in before] == ["system", "user", "assistant", "user"]
        assert before[-1]["content"] == "Bye"


def test_a_test_and_a_validation_set_of_their_own_are_left_out_of_training(tmp_path: Path):
    def rows(*names: str) -> list[dict[str, str]]:
        return [{"question": name, "answer": name.upper()} for name in names]

    train = lines(tmp_path / "train.jsonl", rows("a", "b", "c", "d", "b"))
    test = lines(tmp_path / "test.jsonl", rows("b", "e"))
    held = lines(tmp_path / "held.jsonl", rows("e", "c", "f"))
    loaded = sources.load(data(train, test_source=str(test), validation_source=str(held)))
    by_split = loaded.examples.groupby("split")["prompt"].apply(list).to_dict()
    assert by_split == {"test": ["b", "e"], "validation": ["c", "f"], "train": ["a", "d"]}
    counted = loaded.summary.set_index("split")
    assert counted["shared"].to_dict() == {"train": 3, "validation": 1, "test": 0}
    assert counted.loc["train", "shared_place"] == "line 2 of train.jsonl, “B”"


def test_of_more_rows_than_are_kept_there_is_a_fair_sample_and_a_count(tmp_path: Path):
    rows = [{"question": f"q{i % 900}", "answer": "x"} for i in range(1800)]
    path = lines(tmp_path / "many.jsonl", rows)
    loaded = sources.load(data(path, keep=100))
    numbers = loaded.examples["number"].tolist()
    assert len(numbers) == 100
    assert numbers == sorted(numbers)  # in the order of the file
    assert max(numbers) <= 900
    assert loaded.summary[["rows", "distinct", "kept"]].iloc[0].tolist() == [1800, 900, 100]
    everything = sources.load(data(path))
    assert set(pairs(loaded)) < set(pairs(everything))


def test_rows_that_are_no_example_are_counted_with_the_first_of_them(tmp_path: Path):
    rows = [{"question": "a", "answer": "1"}, {"question": "b", "answer": " "},
            {"question": None, "answer": "2"}, {"question": "c", "answer": None}]  # fmt: skip
    loaded = sources.load(data(lines(tmp_path / "x.jsonl", rows)))
    row = loaded.summary.iloc[0]
    assert (row["rows"], row["kept"], row["unfit"]) == (4, 1, 3)
    assert (row["unfit_place"], row["unfit_reason"]) == (
        "line 2 of x.jsonl",
        "the completion is empty",
    )


def test_the_fingerprint_follows_content_and_reading_not_the_name(tmp_path: Path):
    one, two = tmp_path / "one.parquet", tmp_path / "two.parquet"
    ROWS.to_parquet(one)
    two.write_bytes(one.read_bytes())
    assert sources.fingerprint(data(one)) == sources.fingerprint(data(two))
    for setting in ({"stratify": "id"}, {"keep": 50}, {"form": "text"}, {"test_source": str(two)}):
        assert sources.fingerprint(data(one)) != sources.fingerprint(data(one, **setting))
    ROWS.head(2).to_parquet(two)
    assert sources.fingerprint(data(one)) != sources.fingerprint(data(two))


GOOD = '{"question": "a", "answer": "b"}\n'
BAD_FILES = [
    ("no.jsonl", None, "no such file"),
    ("a.docx", "x", "is none of .jsonl, .json, .csv"),
    (
        "a.jsonl",
        '{"question": "a", "anwser": "b"}\n',
        r"no column 'answer' \(did you mean 'anwser'\?\); it has question, anwser; set data.compl",
    ),
    ("a.jsonl", GOOD + '{"question": "c", "answer": ["d"]}\n', "line 2 of .*'answer' holds a list"),
    ("a.jsonl", '{"question": "a", "answer": true}\n', "holds true or false, and not text"),
    ("a.jsonl", "not json\n", "line 1 cannot be read as JSON"),
    ("a.jsonl", "[\n" + GOOD + "]\n", "line 1 only begins a list.* rename it to .json"),
    ("a.jsonl", f"[{GOOD.strip()}]", "line 1 holds a list.* rename it to .json"),
    ("a.jsonl", GOOD + GOOD.strip() + ",\n", "line 2 ends with a comma"),
    ("a.jsonl", GOOD + '"text"\n', "line 2 holds '\"text\"', and not an object"),
    ("a.jsonl", "", "there is no example in it"),
    ("a.jsonl", "\n \n", "there is no example in it"),
    (
        "a.jsonl",
        GOOD + '{"question": "\xe9", "answer": "b"}\n',
        r"line 2 is not UTF-8 \(byte 0xe9 at",
    ),
    ("a.jsonl", '{"question": "\\ud83d", "answer": "b"}\n', "holds half a character"),
    ("a.json", '[{"question": "a", "answer": "b"},]', "cannot be read as JSON"),
    ("a.json", '["a"]', "entry 1 is 'a', and not an object"),
    ("a.json", "[]", "there is no example in it"),
    ("a.parquet", "not parquet", "cannot be read as Parquet"),
    ("a.csv", "question,answer\n\xff,b\n", "line 2 is not UTF-8"),
    ("a.csv", "question,answer\n", "there is no example in it"),
    ("a.csv", "", "it is empty; its first line must name the columns"),
    ("a.csv", "question,answer\na,b,c\n", "line 2 has 3 fields and the header 2"),
    ("a.csv", 'question,answer\n"a,b\nc,d\n', "the record on line 2 .* quote that is not closed"),
    ("a.csv", "question;answer\na;b\n", "no column 'question' .* it has question;answer"),
    ("a.csv", "answer,answer\na,b\n", "two columns are called 'answer'"),
    ("a.jsonl", '{"question": "a", "answer": ""}\n', "has no example to use: the completion is em"),
    ("a.jsonl.gz", "plain", "cannot be unpacked"),
]


@pytest.mark.parametrize(("name", "content", "sentence"), BAD_FILES)
def test_a_bad_file_is_a_sentence(tmp_path: Path, name: str, content: str | None, sentence: str):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=sentence) as caught:
        sources.load(data(path))
    assert str(path) in str(caught.value)


def test_the_place_that_is_not_utf8_is_where_it_says(tmp_path: Path):
    path = tmp_path / "a.csv"
    content = "question,answer\nok,ok\ncaf\xe9,x\n".encode("latin-1")
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"line 3 .* at offset {content.index(0xE9)}\\);"):
        sources.load(data(path))


CHATS = [
    ({"messages": "hello"}, "column 'messages' holds no list of messages"),
    ({"messages": [["user", "hi"]]}, "message 1 of column 'messages' is .* not a role with its"),
    ({"messages": [{"role": "user", "text": "hi"}]}, "has role, text; a message has role and"),
    ({"messages": [{"role": "asistant", "content": "x"}]}, r"'asistant' \(did you mean 'assistant"),
    ({"messages": [{"role": "user", "content": 3}]}, "has the content 3, which is not text"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        r"has a part that is not text \(image_url\)",
    ),
    ({"messages": [{"role": "user", "content": "hi"}]}, "no message is the assistant's"),
    (
        {"messages": [{"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}]},
        "the last message is the user's and not the assistant's",
    ),
    ({"messages": [{"role": "assistant", "content": " "}]}, "assistant's last message is empty"),
    ({"messages": None}, "there are no messages"),
]


@pytest.mark.parametrize(("row", "sentence"), CHATS)
def test_a_bad_chat_is_a_sentence(tmp_path: Path, row: dict[str, Any], sentence: str):
    path = lines(tmp_path / "a.jsonl", [row])
    with pytest.raises(DataError, match=sentence) as caught:
        sources.load(Data(source=str(path)))
    assert "line 1 of" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"prompt": "Q: {questoin}"}, r"no column 'questoin' \(did you mean 'question'"),
        ({"prompt": "Q: {question"}, r"the template 'Q: \{question' has a '\{' alone"),
        ({"prompt": "Q: {question.__class__}"}, "no column 'question.__class__'"),
        ({"prompt": "Q: {question!r}"}, "no column 'question!r'"),
        ({"prompt": "Q: {}"}, "no column ''"),
        ({"prompt": "Q {{x}}"}, "names no column"),
        ({"stratify": "topic"}, "no column 'topic'.* set data.stratify"),
        ({"form": "text"}, "no column 'text'.* set data.text"),
        ({"form": "messages"}, "no column 'messages'"),
        ({"test_split": "test"}, "only data sets of the hub have splits.* set data.test_source"),
        ({"test_source": "other.csv"}, "data.test_source: no such file: other.csv"),
    ],
)
def test_a_bad_setting_is_a_sentence(tmp_path: Path, settings: dict[str, str], sentence: str):
    path = lines(tmp_path / "a.jsonl", [{"question": "a", "answer": "b"}])
    with pytest.raises(DataError, match=sentence):
        sources.check(data(path, **settings))
    with pytest.raises(DataError, match=sentence):
        sources.load(data(path, **settings))


def test_a_test_set_with_other_columns_is_a_sentence(tmp_path: Path):
    train = lines(tmp_path / "train.jsonl", [{"question": "a", "answer": "b"}])
    test = lines(tmp_path / "test.jsonl", [{"q": "a", "a": "b"}])
    with pytest.raises(DataError, match=r"test.jsonl: no column 'question'.* it has q, a"):
        sources.check(data(train, test_source=str(test)))


def test_files_of_different_forms_are_a_sentence(tmp_path: Path):
    lines(tmp_path / "a.jsonl", [{"prompt": "a", "completion": "b"}])
    lines(tmp_path / "b.jsonl", [{"text": "a"}])
    with pytest.raises(DataError, match=r"of different forms, .*a.jsonl as completion, .* as text"):
        sources.check(Data(source=str(tmp_path)))
    both = Data(source=str(tmp_path / "a.jsonl"), test_source=str(tmp_path / "b.jsonl"))
    with pytest.raises(DataError, match=r"of the form completion, and .*b.jsonl of the form text"):
        sources.load(both)


def test_a_folder_without_data_or_with_several_kinds_is_a_sentence(tmp_path: Path):
    with pytest.raises(DataError, match=r"no file in .* is one of .jsonl"):
        sources.check(data(tmp_path))
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.jsonl").write_text(GOOD)
    with pytest.raises(DataError, match=r"several kinds \(.jsonl, text\); name those meant by a"):
        sources.check(data(tmp_path))
    with pytest.raises(DataError, match="no such file"):
        sources.check(data(tmp_path / "*.csv"))
    (tmp_path / "a.txt").write_text("\n \n")
    with pytest.raises(DataError, match=r"there is no example in it|no example to use"):
        sources.load(Data(source=str(tmp_path / "a.txt")))


def test_columns_that_say_nothing_are_a_sentence(tmp_path: Path):
    path = lines(tmp_path / "a.jsonl", [{"q": "a", "a": "b"}])
    with pytest.raises(DataError, match="no column says what an example is; it has q, a; set data"):
        sources.load(Data(source=str(path)))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"source": "builtin:poems"},
            "no 'builtin:poems'; there are builtin:docstrings, builtin:n",
        ),
        ({"stratify": "kind"}, "data.stratify: builtin:docstrings knows no such thing"),
        ({"test_source": "x.csv"}, "data.test_source: builtin:docstrings knows no such thing"),
    ],
)
def test_what_builtin_data_does_not_know_is_a_sentence(settings: dict[str, str], sentence: str):
    with pytest.raises(DataError, match=sentence):
        sources.check(Data.model_validate(settings))


def test_templates_fill_columns_and_numbers(tmp_path: Path):
    row = {"question": "2+2", "options": None, "answer": 4, "why": 0.5}
    path = lines(tmp_path / "a.jsonl", [row])
    settings = {"prompt": "Q: {question} {options}{{}}\nA:", "completion": " {answer} ({why})"}
    assert pairs(sources.load(data(path, **settings))) == [("Q: 2+2 {}\nA:", " 4 (0.5)")]


def test_a_mistyped_template_of_a_gz_file_is_found_before_all_is_read(tmp_path: Path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(GOOD.encode()))
    with pytest.raises(DataError, match="no column 'qestion'"):
        sources.check(data(path, prompt="{qestion}"))


@pytest.mark.parametrize("place", [0.2, 0.6])
def test_a_damaged_table_is_a_sentence(tmp_path: Path, place: float):
    path = tmp_path / "a.parquet"
    long = pd.DataFrame({"question": [f"q{i}" for i in range(5000)], "answer": "x" * 50})
    long.to_parquet(path)
    content = bytearray(path.read_bytes())
    at = int(place * len(content))
    content[at : at + 2000] = b"\xff" * 2000
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a.parquet.*(cannot be read as Parquet|not UTF-8)"):
        sources.load(data(path))


def test_text_of_a_table_that_is_not_utf8_is_a_sentence(tmp_path: Path):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"question": [b"caf\xe9"], "answer": ["x"]}).to_parquet(path)
    with pytest.raises(DataError, match=r"row 1 of .*a.parquet: column 'question' is not UTF-8"):
        sources.load(data(path))


def test_a_truncated_archive_is_a_sentence(tmp_path: Path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(GOOD.encode() * 5000)[:-20])
    with pytest.raises(DataError, match="cannot be unpacked"):
        sources.load(data(path))
