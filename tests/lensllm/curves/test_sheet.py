"""Files of three kinds, in the ways people write them, and what cannot be read as a table."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest

from lensllm.core.errors import DataError
from lensllm.curves.tables import read
from tests.lensllm.curves.loss_tables import (
    EXPECTED,
    LONG,
    WIDE,
    long,
    read_text,
    refusal,
    rows,
)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda t: t.replace("\n", "\r\n"), id="windows"),
        pytest.param(lambda t: t.replace("\n", "\r"), id="old-mac"),
        pytest.param(lambda t: "\ufeff" + t, id="byte-order-mark"),
        pytest.param(lambda t: t.rstrip("\n"), id="no-last-newline"),
        pytest.param(lambda t: t.replace(",", ";"), id="semicolons"),
        pytest.param(lambda t: t.replace(",", "\t"), id="tabs"),
        pytest.param(lambda t: t.replace(",", " , ").replace("\n", " \n"), id="spaces"),
        pytest.param(lambda t: "\n\n" + t.replace("\n", "\n\n"), id="blank-lines"),
        pytest.param(lambda t: t.replace("\n", ",,\n") + ",,,,,,,\n  \n", id="trailing-empties"),
        pytest.param(lambda t: t.replace("\n", '"\n"').replace(",", '","').join('""')[:-2], id="quoted"),
        pytest.param(lambda t: t.replace("size", "Training_Size").replace("config name", "Model-ID"), id="synonyms"),
        pytest.param(lambda t: t.replace(",,", ",n/a,").replace(",,", ", NaN ,"), id="words-for-gaps"),
        pytest.param(lambda t: t.replace("1000", "1.0e3").replace("200", "D=200.0" if "200," in t[:40] else "200.0"), id="number-formats"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("text", [LONG, WIDE])
def test_the_way_a_file_is_written_changes_nothing(tmp_path: Path, text: str, change) -> None:
    assert rows(read_text(tmp_path, change(text))) == EXPECTED


def test_names_are_text_whatever_they_look_like(tmp_path: Path) -> None:
    text = (
        long(header="candidate,size,loss")
        .replace("\na,", "\n001,")
        .replace("\nb,", '\n"x, ""y"" é",')
    )

    table = read_text(tmp_path, text)

    assert list(dict.fromkeys(table.cells["candidate"])) == ["001", 'x, "y" é']
    wrapped = read_text(tmp_path, text.replace("x, ", "x\n"))
    assert wrapped.cells["candidate"].iloc[-1] == 'x "y" é'


SENTENCES = {
    "text": (long("c,1,abc"), "line 8, column 'loss': 'abc' is no number: correct it, or leave the cell empty"),
    "blank lines count": (long("", "c,1,abc").replace("\n", "\r\n"), "line 9, column 'loss': 'abc'"),
    "text in wide": (WIDE.replace(",3.5,", ",3.5x,"), "line 3, column '400': '3.5x' is no number"),
    "decimal comma": (WIDE.replace(",", ";").replace("2.75", "2,75"), "line 2, column '200': '2,75' has a decimal comma: write 2.75"),
    "decimal comma in commas": (WIDE.replace("2.75", "2,75"), "line 2 has 8 fields and the header 7: put names with commas into quotes, and write decimals with a point"),
    "short row": (long("c,1"), "line 8 has 2 fields and the header 3"),
    "empty": ("", "the file is empty: write a header"),
    "empty but for a mark": (b"\xef\xbb\xbf", "the file is empty"),
    "empty but for separators": (" \n,,,\n\n", "the file is empty"),
    "header only": ("candidate,size,loss\n,,\n\n", "there is no row below the header: add one per candidate"),
    "single column": ("candidate size loss\na 1 2\n", "the first line is a single column ('candidate size loss'): separate columns with commas"),
    "latin-1": ("candidate,size,loss\na,1,2\né,1,2\n".encode("latin-1"), "line 3 is not UTF-8: save the file as UTF-8 CSV"),
    "utf-16": (long().encode("utf-16"), "the text is UTF-16 or binary: save it as UTF-8 CSV"),
    "utf-16 without a mark": (long().encode("utf-16-le"), "the text is UTF-16 or binary"),
    "header again": (long("candidate,size,loss"), "line 8, column 'loss': 'loss' is no number"),
    "open quote": ('candidate,size,loss\n"a,1,2\nb,1,2\n', "fields and the header 3"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "sentence"), SENTENCES.values(), ids=SENTENCES)
def test_a_bad_table_is_a_sentence(tmp_path: Path, text: str | bytes, sentence: str) -> None:
    assert sentence in refusal(tmp_path, text)


def test_a_bad_parquet_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"losses.parquet: cannot be read as parquet .*: write it again$"
    ):
        read_text(tmp_path, LONG, "losses.parquet")
    path = tmp_path / "bad.parquet"
    frame = pd.read_csv(io.StringIO(long("c,1,-2")))
    frame.to_parquet(path)
    with pytest.raises(
        DataError, match=r"bad.parquet: row 7, column 'loss': the loss of c at D = 1 is -2"
    ):
        read(str(path))
    frame.head(0).to_parquet(path)
    with pytest.raises(DataError, match="there is no row below the header"):
        read(str(path))
    pd.DataFrame({"a": [[1, 2], [3]]}).to_parquet(path)
    with pytest.raises(DataError, match="there are no columns of text or numbers in it"):
        read(str(path))
