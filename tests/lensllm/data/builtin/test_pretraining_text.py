"""Files of pretraining text: the four kinds, what identifies them, and what users get wrong."""

from pathlib import Path

import pandas as pd
import pytest

from lensllm.core.errors import DataError
from lensllm.data.builtin import pretraining_text

TEXTS = ["One text\nin two lines, ünïcode.", "Another", "A third."]


def write(path: Path) -> str:
    rows = pd.DataFrame({"text": [*TEXTS, TEXTS[0], None, "  "], "id": range(6)})
    match path.suffix:
        case ".txt":
            path.write_text("\n\n".join([*TEXTS, TEXTS[0]]) + "\n \n\n", encoding="utf-8")
        case ".jsonl":
            rows.to_json(path, orient="records", lines=True, force_ascii=False)
        case ".csv":
            rows.to_csv(path, index=False)
        case ".parquet":
            rows.to_parquet(path)
    return str(path)


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "parquet"])
def test_every_kind_gives_the_same_distinct_texts(tmp_path: Path, kind: str):
    assert pretraining_text.read(write(tmp_path / f"texts.{kind}")) == TEXTS


def test_line_ends_and_byte_order_mark_of_other_systems(tmp_path: Path):
    path = tmp_path / "texts.TXT"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(["one", "two"]).encode())
    assert pretraining_text.read(str(path)) == ["one", "two"]


def test_a_text_may_be_a_book(tmp_path: Path):
    path, book = tmp_path / "books.jsonl", "word " * 500_000
    pd.DataFrame({"text": [book, "short"]}).to_json(path, orient="records", lines=True)
    assert pretraining_text.read(str(path)) == [book.strip(), "short"]


def test_the_fingerprint_follows_the_content_not_the_name(tmp_path: Path):
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("a\n\nb")
    two.write_text("a\n\nb")
    before = pretraining_text.fingerprint(str(one))
    assert before == pretraining_text.fingerprint(str(two))
    two.write_text("a\n\nc")
    assert before != pretraining_text.fingerprint(str(two))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("no.txt", None, r"kernel.pretraining_text: no such file: .*no\.txt"),
        ("a.docx", b"x", r"a\.docx is none of \.txt, \.jsonl, \.csv, \.parquet"),
        ("a.txt", b"one\n\ntwo\n\xff\n", r"line 4 is not UTF-8 \(.*\); save the file as UTF-8"),
        ("a.jsonl", b'{"txt": "a"}\n', r"no column 'text' \(did you mean 'txt'\?\); it has txt;"),
        ("a.jsonl", b'{"text": 1}\n', "column 'text' holds 1, not text"),
        ("a.jsonl", b'{"text": \n', "line 1 cannot be read as JSON"),
        ("a.csv", b"text\n\xff\xfe\n", "line 2 is not UTF-8"),
        ("a.jsonl", b'{"text": "\xff"}\n', "line 1 is not UTF-8"),
        ("a.parquet", b"text", "cannot be read as Parquet"),
        ("a.csv", b"", "it is empty; its first line must name the columns"),
        ("a.txt", b"", "has 0 distinct texts between its blank lines"),
        ("a.txt", b"a\n\nb\n\nc\n\nd\n\ne", "5 distinct texts .* each of 6 probes; .* to 5$"),
        ("a.jsonl", b'{"text": "a"}\n', "1 distinct texts in its rows"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_sentence(
    tmp_path: Path, name: str, content: bytes | None, sentence: str
):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=sentence) as caught:
        pretraining_text.check(str(path), 6)
    assert "\n" not in str(caught.value)
