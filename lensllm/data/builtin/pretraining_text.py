"""A user's file of text like what the candidates were pretrained on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from lensllm.core.errors import DataError, listing, suggestion
from lensllm.core.untrusted import shown
from lensllm.data import readers

_KEY = "kernel.pretraining_text"
_COLUMN = "text"
_BLOCK = 2**26  # bytes: a row of a table must fit into one, and a text may be a book
_READERS = {
    ".csv": lambda path: pa.csv.read_csv(
        path, pa.csv.ReadOptions(block_size=_BLOCK), pa.csv.ParseOptions(newlines_in_values=True)
    ),
    ".parquet": lambda path: _parquet(path),
}
_KINDS = (".txt", ".jsonl", *_READERS)
_MOST_BYTES = 2**28  # of a file, and of a Parquet file's column unfolded; megabytes are enough
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
    kinds: dict[str, Callable[[Path], Iterable[str | None]]]
    kinds = {".txt": _paragraphs, ".jsonl": _lines}
    texts = kinds.get(path.suffix.lower(), _column)(path)
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
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise DataError(
            f"{_KEY}: {path} has {size:,} bytes, of at most {_MOST_BYTES:,}; take a part of it"
        )
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


def _lines(path: Path) -> list[str | None]:
    """The column of a .jsonl file; Arrow's reader of JSON dies of deep nesting."""
    try:
        table = readers.open_table(path, _BLOCK)
        if _COLUMN not in table.columns:
            raise _no_column(path, table.columns)
        found = [values.get(_COLUMN) for _, values in table.rows((_COLUMN,))]
    except DataError as error:
        text = str(error)
        raise DataError(text if text.startswith(_KEY) else f"{_KEY}: {text}") from None
    if other := next((value for value in found if not isinstance(value, str | None)), None):
        raise DataError(f"{_KEY}: {path}: column '{_COLUMN}' holds {shown(other)}, not text")
    return found


def _no_column(path: Path, columns: Sequence[str]) -> DataError:
    return DataError(
        f"{_KEY}: {path}: no column '{_COLUMN}'{suggestion(_COLUMN, columns)}; "
        f"it has {listing(columns)}; rename the column with the texts"
    )


def _parquet(path: Path) -> pa.Table:
    """The column of texts alone, if there is one."""
    with pa.parquet.ParquetFile(path) as file:
        groups = map(file.metadata.row_group, range(file.num_row_groups))
        chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
        read = [c.total_uncompressed_size for c in chunks if c.path_in_schema == _COLUMN]
        if sum(read) > _MOST_BYTES:
            raise DataError(
                f"{_KEY}: {path}: column '{_COLUMN}' unfolds to {sum(read):,} bytes, of at most "
                f"{_MOST_BYTES:,}; take a part of it"
            )
        if _COLUMN not in file.schema_arrow.names:
            raise _no_column(path, file.schema_arrow.names)
        return file.read([_COLUMN])


def _column(path: Path) -> list[str | None]:
    try:
        table: pa.Table = _READERS[path.suffix.lower()](path)
    except pa.ArrowException as error:
        raise DataError(f"{_KEY}: {path}: cannot be read as {path.suffix[1:]}: {error}") from None
    if _COLUMN not in table.column_names:
        raise _no_column(path, table.column_names)
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
