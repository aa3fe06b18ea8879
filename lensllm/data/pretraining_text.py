"""A user's file of text like what the candidates were pretrained on."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from lensllm.errors import DataError, suggestion

_KEY = "kernel.pretraining_text"
_COLUMN = "text"
_BLOCK = 2**26  # bytes: a row of a table must fit into one, and a text may be a book
_READERS = {
    ".jsonl": lambda path: pa.json.read_json(path, pa.json.ReadOptions(block_size=_BLOCK)),
    ".csv": lambda path: pa.csv.read_csv(
        path, pa.csv.ReadOptions(block_size=_BLOCK), pa.csv.ParseOptions(newlines_in_values=True)
    ),
    ".parquet": pa.parquet.read_table,
}
_KINDS = (".txt", *_READERS)
# pyarrow reads what is not UTF-8 in a CSV file as binary
_TEXT = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())


def fingerprint(source: str) -> dict[str, str]:
    """What the texts of a file are determined by: its kind and checksum.

    Raises DataError when the file is missing or of no known kind.
    """
    path = _file(source)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"kind": path.suffix.lower(), "sha256": digest}


def read(source: str) -> list[str]:
    """The distinct texts of a file: the column ``text`` of a table, or what stands between blank
    lines of a .txt file. Empty ones are dropped.

    Raises DataError as ``fingerprint`` does, for a table without that column, and for a file that
    is damaged or not UTF-8.
    """
    path = _file(source)
    texts = _paragraphs(path) if path.suffix.lower() == ".txt" else _column(path)
    return list(dict.fromkeys(text.strip() for text in texts if text and text.strip()))


def check(source: str, count: int) -> None:
    """Raise DataError for what ``read`` would, and for too few texts to cut ``count`` windows."""
    if (found := len(read(source))) < count:
        between = "between its blank lines" if source.lower().endswith(".txt") else "in its rows"
        raise DataError(
            f"{_KEY}: {source} has {found} distinct texts {between} and the overlap takes one for "
            f"each of {count} probes; bring more text or lower kernel.probes to {max(found, 4)}"
        )


def _file(source: str) -> Path:
    path = Path(source).expanduser()
    if path.suffix.lower() not in _KINDS:
        raise DataError(f"{_KEY}: {path} is none of {', '.join(_KINDS)}")
    if not path.is_file():
        raise DataError(f"{_KEY}: no such file: {path}")
    return path


def _paragraphs(path: Path) -> list[str]:
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{_KEY}: {path}: line {line} is not UTF-8; save the file as UTF-8"
        ) from None
    return re.split(r"\n\s*\n", text.replace("\r\n", "\n"))


def _column(path: Path) -> list[str | None]:
    try:
        table: pa.Table = _READERS[path.suffix.lower()](path)
    except pa.ArrowException as error:
        raise DataError(f"{_KEY}: {path}: cannot be read as {path.suffix[1:]}: {error}") from None
    if _COLUMN not in table.column_names:
        raise DataError(
            f"{_KEY}: {path}: no column '{_COLUMN}'{suggestion(_COLUMN, table.column_names)}; "
            f"it has {', '.join(table.column_names)}; rename the column with the texts"
        )
    column = table[_COLUMN]
    if column.type not in _TEXT:
        raise DataError(f"{_KEY}: {path}: column '{_COLUMN}' holds {column.type}, not text")
    try:
        texts: list[str | None] = column.cast(pa.large_string()).to_pylist()
    except (pa.ArrowInvalid, UnicodeDecodeError):
        raise DataError(
            f"{_KEY}: {path}: column '{_COLUMN}' is not UTF-8; save the file as UTF-8"
        ) from None
    return texts
