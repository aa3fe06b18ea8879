"""A table file as columns of text: bytes, encoding, separators, and where each row stands.

Everything is read as text first. A type guessed from the values would turn a candidate named 001
into 1, and say of a wrong loss only that its column is no column of numbers.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from lensllm.core.errors import DataError
from lensllm.core.untrusted import short
from lensllm.curves.curve import Array

Integers = NDArray[np.int64]
KINDS = (".csv", ".tsv", ".parquet")
GAPS = ("", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "null", "none", "-")

# A row of nothing but separators: spreadsheets leave some below the table.
_EMPTY_ROW = re.compile(r'^(?:[ \t,;]|"")++$', re.MULTILINE)
_MOST_COLUMNS, _LONGEST_TITLE = 10_000, 1_000
_MOST_CELLS, _MOST_BYTES = 10_000_000, 2**30  # of a Parquet file, unfolded
_NAMELESS = re.compile(r"|Unnamed: \d+|__index_level_\d+__")  # the latter two are pandas' own


@dataclass(frozen=True)
class Sheet:
    """C columns of N texts, trimmed; a column of nothing that has no name is left out."""

    name: str  # of the file, as messages call it
    header: tuple[str, ...]  # C names as written; "" where there is none
    columns: tuple[pa.Array, ...]  # C, each (N,) strings
    text: str | None = None  # of a text file, to count its lines
    separator: str = ","

    def place(self, row: int) -> str:
        """Where a row stands: its line in a text file, else its number from 1."""
        if self.text is None:
            return f"row {row + 1}"
        line, _ = next(islice(_records(self.text, self.separator), row + 1, None))
        return f"line {line}"

    def error(self, row: int, column: int, problem: str) -> DataError:
        """The sentence for one cell."""
        title = (
            f"column '{short(self.header[column])}'"
            if self.header[column]
            else "the nameless column"
        )
        return DataError(f"{self.name}: {self.place(row)}, {title}: {problem}")

    def levels(self, column: int) -> tuple[Integers, list[str]]:
        """(N,) index of each row's text among the distinct ones, which keep the file's order."""
        encoded = self.columns[column].dictionary_encode()
        return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()

    def numbers(self, column: int) -> Array:
        """(N,) values; NaN for a gap. Raises DataError for a text that is no number."""
        texts = self.columns[column]
        gap = pc.is_in(pc.utf8_lower(texts), value_set=pa.array(GAPS))
        texts = pc.if_else(gap, pa.scalar(None, pa.string()), texts)
        try:
            values = pc.cast(texts, pa.float64())
        except pa.ArrowInvalid:  # Python reads some more, such as 1_000, and the rest is wrong
            read = (self._number(t, i, column) for i, t in enumerate(texts.to_pylist()))
            values = pa.array(read, pa.float64())
        numbers: Array = values.to_numpy(zero_copy_only=False)
        return numbers

    def _number(self, text: str | None, row: int, column: int) -> float | None:
        if text is None:
            return None
        try:
            return float(text)
        except ValueError:
            advice = "is no number: correct it, or leave the cell empty"
        if re.fullmatch(r"[+-]?\d+,\d+", text):
            advice = f"has a decimal comma: write {text.replace(',', '.')}"
        raise self.error(row, column, f"'{short(text)}' {advice}")


def parse(content: bytes, name: str, kind: str) -> Sheet:
    """The sheet in the bytes of a file of one of ``KINDS``; ``name`` stands in messages.

    Raises DataError when it cannot be read as such, is empty, or has rows of unequal length.
    """
    if not content:
        raise _empty(name)
    sheet = _parquet(content, name) if kind == ".parquet" else _text(content, name)
    kept = [
        index
        for index, (title, column) in enumerate(zip(sheet.header, sheet.columns, strict=True))
        if title or pc.any(pc.not_equal(column, "")).as_py()
    ]
    if not len(sheet.columns[0]):
        raise DataError(f"{name}: there is no row below the header: add one per candidate")
    return replace(
        sheet,
        header=tuple(sheet.header[index] for index in kept),
        columns=tuple(sheet.columns[index] for index in kept),
    )


def _empty(name: str) -> DataError:
    return DataError(f"{name}: the file is empty: write a header and a row per candidate")


def _parquet(content: bytes, name: str) -> Sheet:
    try:
        with pyarrow.parquet.ParquetFile(io.BytesIO(content)) as file:
            found, columns = file.metadata, file.schema_arrow.names
            cells = found.num_rows * found.num_columns
            size = sum(found.row_group(g).total_byte_size for g in range(found.num_row_groups))
            if cells > _MOST_CELLS or size > _MOST_BYTES:
                raise DataError(
                    f"{name}: it unfolds to {cells:,} cells of {size:,} bytes, of at most "
                    f"{_MOST_CELLS:,} and {_MOST_BYTES:,}: rank in parts"
                )
            _check_header(columns, name)
            return _sheet(file.read(), columns, name)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{name}: cannot be read as parquet ({reason}): write it again") from None


def _check_header(header: Sequence[str], name: str) -> None:
    if len(header) > _MOST_COLUMNS:
        raise DataError(
            f"{name}: it has {len(header):,} columns, of at most {_MOST_COLUMNS:,}: write a row "
            "per cell instead"
        )
    if longest := next((title for title in header if len(title) > _LONGEST_TITLE), ""):
        raise DataError(
            f"{name}: the column '{short(longest)}' has a name of {len(longest):,} characters, of "
            f"at most {_LONGEST_TITLE}: cut it"
        )


def _sheet(
    table: pa.Table, header: list[str], name: str, text: str | None = None, separator: str = ","
) -> Sheet:
    plain = [i for i, field in enumerate(table.schema) if not pa.types.is_nested(field.type)]
    if not plain:
        raise DataError(f"{name}: there are no columns of text or numbers in it")
    titles = (header[i].strip() for i in plain)
    return Sheet(
        name,
        tuple("" if _NAMELESS.fullmatch(title) else title for title in titles),
        tuple(_texts(table.column(i)) for i in plain),
        text,
        separator,
    )


def _texts(column: pa.ChunkedArray) -> pa.Array:
    """(N,) trimmed, on one line each, "" for null."""
    texts = pc.replace_substring(column.cast(pa.string()).combine_chunks(), "\n", " ")
    return pc.fill_null(pc.utf8_trim_whitespace(texts), "")


def _text(content: bytes, name: str) -> Sheet:
    text = _EMPTY_ROW.sub("", _decoded(content, name))
    separator = _separator(text)
    try:
        lines, header = next(_records(text, separator), (0, []))
    except csv.Error as error:
        raise DataError(f"{name}: the header cannot be read ({error}): mend its quotes") from None
    if not header:
        raise _empty(name)
    _check_header(header, name)
    if len(header) < 2:
        start = header[0].splitlines()[0][:40]
        raise DataError(
            f"{name}: the first line is a single column ('{start}'): separate columns with commas, "
            "semicolons or tabs, and name them there"
        )
    if len(text.rstrip("\n").split("\n", lines)) <= lines:
        raise DataError(f"{name}: there is no row below the header: add one per candidate")
    columns = [str(index) for index in range(len(header))]
    try:
        table = pyarrow.csv.read_csv(
            io.BytesIO(text.encode()),
            pyarrow.csv.ReadOptions(column_names=columns, skip_rows=lines),
            pyarrow.csv.ParseOptions(delimiter=separator, newlines_in_values='"' in text),
            pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string())),
        )
    except pa.ArrowInvalid as error:
        raise DataError(f"{name}: {_unequal(text, separator, len(header)) or error}") from None
    return _sheet(table, header, name, text, separator)


def _decoded(content: bytes, name: str) -> str:
    """UTF-8 text with a byte-order mark or without; every line ends in one newline character."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in content[:100]:
        raise DataError(f"{name}: the text is UTF-16 or binary: save it as UTF-8 CSV")
    content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{name}: line {line} is not UTF-8: save the file as UTF-8 CSV") from None


def _separator(text: str) -> str:
    """A tab or a semicolon in the header separates; a comma may stand in 1,638,400."""
    header = re.sub(r'"[^"]*"', "", text.lstrip("\n").partition("\n")[0].strip())
    return next((mark for mark in "\t;" if mark in header), ",")


def _records(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """(last line, fields) of every row that is not empty, the header first."""
    reader = csv.reader(io.StringIO(text), delimiter=separator)
    return ((reader.line_num, fields) for fields in reader if fields)


def _unequal(text: str, separator: str, width: int) -> str:
    """What is wrong with the first row that has more or fewer fields than the header."""
    try:
        for line, fields in _records(text, separator):
            if len(fields) != width:
                return (
                    f"line {line} has {len(fields)} fields and the header {width}: put names "
                    "with commas into quotes, and write decimals with a point"
                )
    except csv.Error as error:
        return f"{error}: mend the quotes"
    return ""
