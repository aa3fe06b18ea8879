"""Tables of files and DataFrames as text: a DataFrame of trimmed texts, "" for a missing one.

Its columns are the titles as written, "" where there is none; its index says where each row
stands, "line 7" in a text file and "row 6" elsewhere. Types guessed from the values would turn a
candidate named 001 into 1, and would hide which cell of a column of losses holds a text.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

import pandas as pd

from lensllm.core.errors import DataError
from lensllm.core.untrusted import short

KINDS = (".csv", ".tsv", ".parquet")

_NAMELESS = re.compile(r"|Unnamed: \d+|__index_level_\d+__")  # the latter two are pandas' own
# A row of nothing but separators: spreadsheets leave some below the table.
_EMPTY_ROW = re.compile(r'^(?:[ \t,;]|"")++$', re.MULTILINE)
_EMPTY_FILE = "the file is empty: write a header and a row per candidate"
_MOST_COLUMNS, _LONGEST_TITLE = 10_000, 1_000
_MOST_CELLS = 10_000_000
_MOST_UNPACKED_BYTES = 2**30  # of a Parquet file


def parse(content: bytes, kind: str) -> pd.DataFrame:
    """The texts in the bytes of a file of one of ``KINDS``.

    Raises DataError when it cannot be read as such, is empty, or has rows of unequal length.
    """
    if not content:
        raise DataError(_EMPTY_FILE)
    return _from_parquet(content) if kind == ".parquet" else _from_text(content)


def from_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """The texts of a DataFrame; an index that has a name or holds texts is read as columns."""
    index = frame.index
    is_read = any(index.names) or not pd.api.types.is_numeric_dtype(index)
    if is_read and not set(index.names) & set(frame.columns):
        frame = frame.reset_index()
    return _texts([str(title) for title in frame.columns], frame)


def _texts(titles: Sequence[str], cells: pd.DataFrame, lines: Sequence[int] = ()) -> pd.DataFrame:
    """The texts of N × C values of any type, without nameless empty columns."""
    if len(titles) > _MOST_COLUMNS:
        raise DataError(
            f"it has {len(titles):,} columns, of at most {_MOST_COLUMNS:,}: write a row per cell "
            "instead"
        )
    if longest := next((title for title in titles if len(title) > _LONGEST_TITLE), ""):
        raise DataError(
            f"the column '{short(longest)}' has a name of {len(longest):,} characters, of at most "
            f"{_LONGEST_TITLE}: cut it"
        )
    if cells.size > _MOST_CELLS:
        raise DataError(f"it has {cells.size:,} cells, of at most {_MOST_CELLS:,}: rank in parts")
    if cells.empty:
        raise DataError("there is no row below the header: add one per candidate")
    texts = cells.astype(object)
    texts = texts.map(lambda value: str(value).replace("\n", " ").strip(), na_action="ignore")
    texts = texts.fillna("")
    texts.columns = pd.Index(
        ["" if _NAMELESS.fullmatch(title.strip()) else title.strip() for title in titles]
    )
    texts.index = pd.Index(
        [f"line {n}" for n in lines] or [f"row {n}" for n in range(1, len(texts) + 1)]
    )
    return texts.loc[:, (texts.columns != "") | (texts != "").any()]


def _from_parquet(content: bytes) -> pd.DataFrame:
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
                    f"it unfolds to {cells:,} cells of {unpacked:,} bytes, of at most "
                    f"{_MOST_CELLS:,} and {_MOST_UNPACKED_BYTES:,}: rank in parts"
                )
            plain = [i for i, kind in enumerate(schema.types) if not pa.types.is_nested(kind)]
            if not plain:
                raise DataError("there are no columns of text or numbers in it")
            table = file.read()
            texts = {i: table.column(i).cast(pa.string()).to_pylist() for i in plain}
            return _texts([schema.names[i] for i in plain], pd.DataFrame(texts))
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"cannot be read as parquet ({reason}): write it again") from None


def _from_text(content: bytes) -> pd.DataFrame:
    text = _EMPTY_ROW.sub("", _decoded(content))
    # A tab or a semicolon in the header separates; a comma may stand in 1,638,400.
    first_line = re.sub(r'"[^"]*"', "", text.lstrip("\n").partition("\n")[0].strip())
    separator = next((mark for mark in "\t;" if mark in first_line), ",")
    reader = csv.reader(io.StringIO(text), delimiter=separator)
    rows: dict[int, list[str]] = {}  # by the line on which each ends
    header: list[str] = []
    try:
        for fields in filter(None, reader):
            if not header:
                header = fields
            elif len(fields) != len(header):
                raise DataError(
                    f"line {reader.line_num} has {len(fields)} fields and the header "
                    f"{len(header)}: put names with commas into quotes, and write decimals with a "
                    "point"
                )
            elif len(rows) * len(header) <= _MOST_CELLS:  # else refused below
                rows[reader.line_num] = fields
    except csv.Error as error:
        line = reader.line_num
        raise DataError(f"line {line} cannot be read ({error}): mend its quotes") from None
    if not header:
        raise DataError(_EMPTY_FILE)
    if len(header) == 1:
        start = header[0].splitlines()[0][:40]
        raise DataError(
            f"the first line is a single column ('{start}'): separate columns with commas, "
            "semicolons or tabs, and name them there"
        )
    return _texts(header, pd.DataFrame(rows.values()), list(rows))


def _decoded(content: bytes) -> str:
    """UTF-8 text with a byte-order mark or without; every line ends in one newline character."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in content[:100]:
        raise DataError("the text is UTF-16 or binary: save it as UTF-8 CSV")
    content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"line {line} is not UTF-8: save the file as UTF-8 CSV") from None
