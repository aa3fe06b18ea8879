"""A table of a file or a DataFrame as columns of text, with the place of every row.

Everything is read as text first. A type guessed from the values would turn a candidate named 001
into 1, and say of a wrong loss only that its column is no column of numbers.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lensllm.core.errors import DataError
from lensllm.core.untrusted import short

KINDS = (".csv", ".tsv", ".parquet")
GAPS = ("", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "null", "none", "-")

_NAMELESS = re.compile(r"|Unnamed: \d+|__index_level_\d+__")  # the latter two are pandas' own
# A row of nothing but separators: spreadsheets leave some below the table.
_EMPTY_ROW = re.compile(r'^(?:[ \t,;]|"")++$', re.MULTILINE)
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.0*)?")
_EXACT = 2**53  # up to here a float holds every whole number
_MOST_COLUMNS, _LONGEST_TITLE = 10_000, 1_000
_MOST_CELLS = 10_000_000
_MOST_UNPACKED_BYTES = 2**30  # of a Parquet file


@dataclass(frozen=True)
class Sheet:
    """N rows of C texts, trimmed, "" for a missing one; nameless empty columns are left out."""

    name: str  # of the file, as messages call it
    titles: tuple[str, ...]  # C names as written; "" where there is none
    columns: tuple[NDArray[Any], ...]  # C, each (N,) texts
    lines: Sequence[int] | None  # (N,) of a text file: the line on which each row ends

    def place(self, row: int) -> str:
        """The line of a row in a text file, else its number from 1."""
        return f"row {row + 1}" if self.lines is None else f"line {self.lines[row]}"

    def error(self, row: int, column: int, problem: str) -> DataError:
        """The sentence for one cell."""
        title = self.titles[column]
        where = f"column '{short(title)}'" if title else "the nameless column"
        return DataError(f"{self.name}: {self.place(row)}, {where}: {problem}")

    def distinct(self, column: int) -> list[str]:
        """The different texts of a column, in the order of their first rows."""
        return list(pd.unique(self.columns[column]))

    def numbers(self, column: int) -> NDArray[np.float64]:
        """(N,) values, NaN for a gap; raises DataError for a text that is no number."""
        return self._convert(column, _decimal, _no_decimal).astype(np.float64)

    def wholes(self, column: int, meaning: str, least: float) -> NDArray[np.int64]:
        """(N,) whole numbers from ``least``; raises DataError for any other text, gaps too."""
        wanted = "a whole number" + (f" from {least:g}" if np.isfinite(least) else "")

        def read(text: str) -> int | None:
            value = whole(text)
            return None if value is None or value < least else value

        def problem(text: str) -> str:
            return f"'{short(text)}' is no {meaning}: write {wanted}"

        return self._convert(column, read, problem).astype(np.int64)

    def _convert(
        self, column: int, read: Callable[[str], float | None], problem: Callable[[str], str]
    ) -> NDArray[Any]:
        codes, texts = pd.factorize(self.columns[column])
        values = [read(text) for text in texts]
        if None in values:
            first = values.index(None)
            raise self.error(int(np.argmax(codes == first)), column, problem(texts[first]))
        return np.array(values)[codes]


def parse(content: bytes, name: str, kind: str) -> Sheet:
    """The sheet in the bytes of a file of one of ``KINDS``; ``name`` stands in messages.

    Raises DataError when it cannot be read as such, is empty, or has rows of unequal length.
    """
    if not content:
        raise _empty(name)
    return _from_parquet(content, name) if kind == ".parquet" else _from_text(content, name)


def from_frame(frame: pd.DataFrame, name: str) -> Sheet:
    """The sheet of a DataFrame; an index that has a name or holds texts is read as columns."""
    index = frame.index
    is_read = any(index.names) or not pd.api.types.is_numeric_dtype(index)
    if is_read and not set(index.names) & set(frame.columns):
        frame = frame.reset_index()
    titles = [str(title) for title in frame.columns]
    _check_limits(name, titles, frame.size)
    columns = [
        ["" if gap else str(value) for value, gap in zip(values, values.isna(), strict=True)]
        for _, values in frame.astype(object).items()
    ]
    return _sheet(name, titles, columns)


def number(text: str) -> float | None:
    """The number in ``3.5``, ``1,638,400`` or ``1.6384e6``; None where there is none."""
    try:
        return float(text.replace(",", "") if _THOUSANDS.fullmatch(text) else text)
    except ValueError:
        return None


def whole(text: str) -> int | None:
    """The same where it is a whole number that a float holds exactly; None otherwise."""
    value = number(text)
    if value is None or not value.is_integer() or abs(value) > _EXACT:
        return None
    return int(value)


def _decimal(text: str) -> float | None:
    """A number whose comma, if it has one, is no separator of thousands; NaN for a gap."""
    if text.lower() in GAPS:
        return float("nan")
    return None if "," in text else number(text)


def _no_decimal(text: str) -> str:
    if re.fullmatch(r"[+-]?\d+,\d+", text):
        return f"'{short(text)}' has a decimal comma: write {text.replace(',', '.')}"
    return f"'{short(text)}' is no number: correct it, or leave the cell empty"


# --- reading ------------------------------------------------------------------------------------
def _sheet(
    name: str,
    titles: Sequence[str],
    columns: Iterable[Iterable[str | None]],
    lines: Sequence[int] | None = None,
) -> Sheet:
    titles = ["" if _NAMELESS.fullmatch(title.strip()) else title.strip() for title in titles]
    texts = [[(text or "").replace("\n", " ").strip() for text in column] for column in columns]
    if not any(texts):
        raise DataError(f"{name}: there is no row below the header: add one per candidate")
    kept = [i for i, title in enumerate(titles) if title or any(texts[i])]
    arrays = tuple(np.array(texts[i], dtype=object) for i in kept)
    return Sheet(name, tuple(titles[i] for i in kept), arrays, lines)


def _check_limits(name: str, titles: Sequence[str], cells: int = 0) -> None:
    if len(titles) > _MOST_COLUMNS:
        raise DataError(
            f"{name}: it has {len(titles):,} columns, of at most {_MOST_COLUMNS:,}: write a row "
            "per cell instead"
        )
    if longest := next((title for title in titles if len(title) > _LONGEST_TITLE), ""):
        raise DataError(
            f"{name}: the column '{short(longest)}' has a name of {len(longest):,} characters, of "
            f"at most {_LONGEST_TITLE}: cut it"
        )
    if cells > _MOST_CELLS:
        raise DataError(
            f"{name}: it has {cells:,} cells, of at most {_MOST_CELLS:,}: rank in parts"
        )


def _empty(name: str) -> DataError:
    return DataError(f"{name}: the file is empty: write a header and a row per candidate")


def _from_parquet(content: bytes, name: str) -> Sheet:
    # Imported here, so that tables of other kinds are read where pyarrow is not installed.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(io.BytesIO(content)) as file:
            found, schema = file.metadata, file.schema_arrow
            unpacked = sum(found.row_group(i).total_byte_size for i in range(found.num_row_groups))
            cells = found.num_rows * found.num_columns
            if cells > _MOST_CELLS or unpacked > _MOST_UNPACKED_BYTES:
                raise DataError(
                    f"{name}: it unfolds to {cells:,} cells of {unpacked:,} bytes, of at most "
                    f"{_MOST_CELLS:,} and {_MOST_UNPACKED_BYTES:,}: rank in parts"
                )
            _check_limits(name, schema.names)
            plain = [i for i, kind in enumerate(schema.types) if not pa.types.is_nested(kind)]
            if not plain:
                raise DataError(f"{name}: there are no columns of text or numbers in it")
            table = file.read()
            columns = [table.column(i).cast(pa.string()).to_pylist() for i in plain]
            return _sheet(name, [schema.names[i] for i in plain], columns)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{name}: cannot be read as parquet ({reason}): write it again") from None


def _from_text(content: bytes, name: str) -> Sheet:
    text = _EMPTY_ROW.sub("", _decoded(content, name))
    # A tab or a semicolon in the header separates; a comma may stand in 1,638,400.
    first_line = re.sub(r'"[^"]*"', "", text.lstrip("\n").partition("\n")[0].strip())
    separator = next((mark for mark in "\t;" if mark in first_line), ",")
    reader = csv.reader(io.StringIO(text), delimiter=separator)
    records = ((reader.line_num, fields) for fields in reader if fields)
    rows, lines = list[list[str]](), list[int]()
    try:
        _, header = next(records, (0, []))
        if not header:
            raise _empty(name)
        _check_limits(name, header)
        if len(header) == 1:
            start = header[0].splitlines()[0][:40]
            raise DataError(
                f"{name}: the first line is a single column ('{start}'): separate columns with "
                "commas, semicolons or tabs, and name them there"
            )
        for line, fields in records:
            if len(fields) != len(header):
                raise DataError(
                    f"{name}: line {line} has {len(fields)} fields and the header {len(header)}: "
                    "put names with commas into quotes, and write decimals with a point"
                )
            rows.append(fields)
            lines.append(line)
            if len(rows) * len(header) > _MOST_CELLS:
                _check_limits(name, header, len(rows) * len(header))
    except csv.Error as error:
        line = reader.line_num
        raise DataError(f"{name}: line {line} cannot be read ({error}): mend its quotes") from None
    return _sheet(name, header, zip(*rows, strict=True), lines)


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
