"""Files of examples as streams of rows: one reader per kind, each in bounded memory.

A row comes with where it stands: its line in a text file, its place in a table. A file that cannot
be read is a sentence with that place.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from lensllm.errors import DataError

Rows = Iterator[tuple[int, Mapping[str, Any]]]  # number, from 1, and values by column
_BATCH = 1000  # rows of a table in memory at a time
_BY_LINE = (".jsonl", ".csv", ".tsv", ".txt", ".md")  # whose rows are called by their line
# Longer than any field of text; csv's own limit, 128 kB, is less than a book's chapter.
csv.field_size_limit(2**31 - 1)


@dataclass(frozen=True)
class Table:
    """Rows that can be read, again and again."""

    where: str  # it is, in a sentence
    name: str  # of the file, kept beside its examples
    columns: tuple[str, ...]  # of the first row, where rows may differ
    rows: Callable[[Collection[str]], Rows]  # with at least the columns asked for


def kind(path: Path) -> str:
    """``.jsonl`` of ``x.jsonl`` and of ``x.jsonl.gz``."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix == ".gz" else suffix


def place(file: str, number: int) -> str:
    """Where a row stands, for people."""
    if not file:
        return f"row {number} of the data"
    return f"{'line' if kind(Path(file)) in _BY_LINE else 'row'} {number} of {file}"


def open_table(path: Path) -> Table:
    """The table in ``path``. Raises ``DataError`` when it has no row or cannot be read."""
    return KINDS[kind(path)](path)


# --- lines ---------------------------------------------------------------------------------------
def _lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, ended by a newline alone, without a byte-order mark."""
    offset = 0
    try:
        with _opened(path) as stream:
            for number, line in enumerate(stream, 1):
                try:
                    text = line.decode()
                except UnicodeDecodeError as error:
                    at = offset + error.start
                    raise DataError(
                        f"{path}: line {number} is not UTF-8 (byte {line[error.start]:#04x} at "
                        f"offset {at:,}); save the file as UTF-8"
                    ) from None
                offset += len(line)
                text = text.removeprefix("\ufeff") if number == 1 else text
                yield text[:-2] + "\n" if text.endswith("\r\n") else text
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be unpacked: {error}") from None


def _opened(path: Path) -> BufferedIOBase:
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")


def _first(path: Path, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> Mapping[str, Any]:
    for _, values in rows:
        return values
    raise DataError(f"{path}: there is no example in it")


# --- JSON ----------------------------------------------------------------------------------------
def _jsonl(path: Path) -> Table:
    def rows(_: Collection[str] = ()) -> Rows:
        for number, line in enumerate(_lines(path), 1):
            if not line.isspace():
                yield number, _object(path, number, line)

    return Table(str(path), path.name, tuple(_first(path, rows())), rows)


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    where = f"{path}: line {number}"
    try:
        found = json.loads(line)
    except ValueError as error:
        _not_an_object(where, line.strip(), error)
    if isinstance(found, list):
        raise DataError(f"{where} holds a list; in a .jsonl file each line is an object, so if the "
                        "file is one list of them, rename it to .json")  # fmt: skip
    if not isinstance(found, dict):
        raise DataError(f"{where} holds {line.strip()[:40]!r}, and not an object with columns")
    return found


def _not_an_object(where: str, line: str, error: ValueError) -> NoReturn:
    if line in ("[", "{"):
        raise DataError(
            f"{where} only begins {'a list' if line == '[' else 'an object'}; in a .jsonl file "
            "each line is a whole object; if the file is one list of objects, rename it to .json"
        ) from None
    if line.endswith(","):
        raise DataError(
            f"{where} ends with a comma; in a .jsonl file each line is an object and nothing is "
            "between them"
        ) from None
    raise DataError(f"{where} cannot be read as JSON: {error}") from None


def _json(path: Path) -> Table:
    """A list of objects; a file with an object per line is often called .json too."""
    head = next((line.lstrip() for line in _lines(path) if not line.isspace()), "")
    if not head.startswith("["):
        return _jsonl(path)
    try:
        found = json.loads("".join(_lines(path)))
    except ValueError as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from None
    for number, entry in enumerate(found, 1):
        if not isinstance(entry, dict):
            raise DataError(
                f"{path}: entry {number} is {str(entry)[:40]!r}, and not an object with columns"
            )

    def rows(_: Collection[str] = ()) -> Rows:
        return iter(enumerate(found, 1))

    return Table(str(path), path.name, tuple(_first(path, rows())), rows)


# --- separated values ----------------------------------------------------------------------------
def _separated(path: Path, delimiter: str) -> Table:
    """Every field is text, as it stands in the file; quoted ones may hold newlines."""
    header = next(_records(path, delimiter), (1, []))[1]
    if not header:
        raise DataError(f"{path}: it is empty; its first line must name the columns")
    if twice := [name for name in header if header.count(name) > 1]:
        raise DataError(f"{path}: two columns are called '{twice[0]}'; rename one")

    def rows(_: Collection[str] = ()) -> Rows:
        records = _records(path, delimiter)
        next(records)
        for number, fields in records:
            if len(fields) != len(header):
                raise DataError(
                    f"{path}: line {number} has {len(fields)} fields and the header "
                    f"{len(header)}; put a field with {delimiter!r} or a newline in quotes"
                )
            yield number, dict(zip(header, fields, strict=True))

    _first(path, rows())
    return Table(str(path), path.name, tuple(header), rows)


def _records(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line it begins on, fields) of every record that is not blank."""
    reader, begin = csv.reader(_lines(path), delimiter=delimiter, strict=True), 1
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"{path}: the record on line {begin} cannot be read: {error}; look for a quote "
                "that is not closed"
            ) from None
        if fields is None:
            return
        if fields:
            yield begin, fields
        begin = reader.line_num + 1


# --- Parquet -------------------------------------------------------------------------------------
def _parquet(path: Path) -> Table:
    def rows(columns: Collection[str]) -> Rows:
        number = 0
        with _arrow(path) as file:
            for batch in _batches(path, file, sorted(columns)):
                for values in batch:
                    number += 1
                    yield number, values

    with _arrow(path) as file:
        if not file.metadata.num_rows:
            raise DataError(f"{path}: there is no example in it")
        return Table(str(path), path.name, tuple(file.schema_arrow.names), rows)


def _arrow(path: Path) -> Any:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from None


def _batches(path: Path, file: Any, columns: list[str]) -> Iterator[list[dict[str, Any]]]:
    try:
        for batch in file.iter_batches(_BATCH, columns=columns):
            yield batch.to_pylist()
    except UnicodeDecodeError:
        raise DataError(f"{path}: a column of text is not UTF-8; write it as UTF-8") from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from None


# --- running text --------------------------------------------------------------------------------
def _text(path: Path) -> Table:
    """What stands between blank lines, as one column ``text``."""

    def rows(_: Collection[str] = ()) -> Rows:
        begin, lines = 0, list[str]()
        for number, line in enumerate(_lines(path), 1):
            if not line.isspace():
                begin = begin if lines else number
                lines.append(line)
            elif lines:
                yield begin, {"text": "".join(lines).rstrip("\n")}
                lines = []
        if lines:
            yield begin, {"text": "".join(lines).rstrip("\n")}

    return Table(str(path), path.name, ("text",), rows)


KINDS: dict[str, Callable[[Path], Table]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": lambda path: _separated(path, ","),
    ".tsv": lambda path: _separated(path, "\t"),
    ".parquet": _parquet,
    ".txt": _text,
    ".md": _text,
}
TEXT = (".txt", ".md")
