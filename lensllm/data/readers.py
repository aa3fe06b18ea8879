"""Files of examples as streams of rows: one reader per kind, each in bounded memory.

A row has a number: its line in a text file, its place in a table. Errors name it. A row of more
bytes than are allowed is refused before it is in memory as a whole.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BufferedIOBase
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lensllm.config.sections import Data
from lensllm.core.errors import DataError
from lensllm.core.untrusted import UnreadableError, checked, parse_json, reason, short

Rows = Iterator[tuple[int, Mapping[str, Any]]]  # number, from 1, and values by column
_BATCH = 1000  # rows of a table in memory at a time
_BATCH_BYTES = 2**26  # and about so many bytes, where rows are long
_CHUNK = 2**20  # bytes of a file read at a time, where lines do not count
_MOST_COLUMNS = 10_000
_MOST_ROW_BYTES: int = Data.model_fields["max_row_bytes"].default
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
    """The place of a row, for people: ``line 3 of x.csv``."""
    unit = "line" if kind(Path(file)) in _BY_LINE else "row"
    return f"{unit} {number} of {file or 'the data'}"


def open_table(path: Path, most_bytes: int = _MOST_ROW_BYTES) -> Table:
    """The table in ``path``, whose rows have at most so many bytes.

    Raises ``DataError`` when it has no row or cannot be read.
    """
    table = KINDS[kind(path)](path, most_bytes)
    if len(table.columns) > _MOST_COLUMNS:
        raise DataError(
            f"{path}: it has {len(table.columns):,} columns, of at most {_MOST_COLUMNS:,}; leave "
            "out those that are not needed"
        )
    return table


def too_long(where: str, most_bytes: int) -> DataError:
    """The error for a row of more than ``most_bytes``."""
    return DataError(
        f"{where} has more than {most_bytes:,} bytes; cut it, or raise data.max_row_bytes"
    )


def checksum(path: Path) -> str:
    """The SHA-256 of a file's content, computed once per process and state of the file."""
    state = path.stat()
    return _checksum(path, state.st_size, state.st_mtime_ns)


@cache
def _checksum(path: Path, size: int, changed_ns: int) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


# --- lines ---------------------------------------------------------------------------------------
def _lines(path: Path, most: int) -> Iterator[str]:
    """The lines of a UTF-8 file, ended by a newline alone, without a byte-order mark."""
    offset = number = 0
    with _unpacked(path) as stream:
        while line := stream.readline(most + 2):
            number += 1
            if len(line) > most and len(line.rstrip(b"\r\n")) > most:
                raise too_long(f"{path}: line {number}", most)
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                raise _not_utf8(f"{path}: line {number}", line, error, offset) from None
            offset += len(line)
            text = text.removeprefix("\ufeff") if number == 1 else text
            yield text[:-2] + "\n" if text.endswith("\r\n") else text


def _chunks(path: Path) -> Iterator[str]:
    """A UTF-8 file in pieces that are no lines, without a byte-order mark."""
    decode, offset = codecs.getincrementaldecoder("utf-8-sig")().decode, 0
    with _unpacked(path) as stream:
        while True:
            chunk = stream.read(_CHUNK)
            try:
                yield decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                raise _not_utf8(f"{path}: it", error.object, error, offset) from None
            offset += len(chunk)
            if not chunk:
                return


def _not_utf8(where: str, found: bytes, error: UnicodeDecodeError, offset: int) -> DataError:
    return DataError(
        f"{where} is not UTF-8 (byte {found[error.start]:#04x} at offset "
        f"{offset + error.start:,}); save the file as UTF-8"
    )


@contextmanager
def _unpacked(path: Path) -> Iterator[BufferedIOBase]:
    """The file's bytes, or what is in it. Raises ``DataError`` where it cannot be unpacked."""
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as stream:
            yield stream
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be unpacked: {error}") from None


def _first(path: Path, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> Mapping[str, Any]:
    for _, values in rows:
        return values
    raise DataError(f"{path}: there is no example in it")


# --- JSON ----------------------------------------------------------------------------------------
def _jsonl(path: Path, most: int) -> Table:
    def rows(_: Collection[str] = ()) -> Rows:
        for number, line in enumerate(_lines(path, most), 1):
            if not line.isspace():
                yield number, _object(path, number, line)

    return Table(str(path), path.name, tuple(_first(path, rows())), rows)


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    text = line.strip()
    try:
        found = parse_json(line)
    except UnreadableError as error:
        problem = f"cannot be read as JSON: {error}"
        if text in ("[", "{"):
            problem = (
                f"only begins {'a list' if text == '[' else 'an object'}; in a .jsonl file each "
                "line is a whole object; if the file is one list of objects, rename it to .json"
            )
        elif text.endswith(","):
            problem = (
                "ends with a comma; in a .jsonl file each line is an object and nothing is between "
                "them"
            )
    else:
        if isinstance(found, dict):
            return found
        problem = f"holds {text[:40]!r}, and not an object with columns"
        if isinstance(found, list):
            problem = (
                "holds a list; in a .jsonl file each line is an object, so if the file is one list "
                "of them, rename it to .json"
            )
    raise DataError(f"{path}: line {number} {problem}")


def _json(path: Path, most: int) -> Table:
    """A list of objects; a file with an object per line is often called .json too."""
    head = next((text.lstrip() for text in _chunks(path) if text.strip()), "")
    if not head.startswith("["):
        return _jsonl(path, most)

    def rows(_: Collection[str] = ()) -> Rows:
        for number, entry in enumerate(_entries(path, most), 1):
            if not isinstance(entry, dict):
                found = repr(short(entry, 40))
                raise DataError(
                    f"{path}: entry {number} is {found}, and not an object with columns"
                )
            yield number, entry

    return Table(str(path), path.name, tuple(_first(path, rows())), rows)


def _entries(path: Path, most: int) -> Iterator[Any]:
    """Yield the entries of the list that a JSON file holds."""
    text = _Window(path)
    text.take("[")
    for number in count(1):
        if text.take("]"):
            break
        if number > 1 and not text.take(","):
            raise DataError(f"{path}: cannot be read as JSON: no comma after entry {number - 1}")
        try:
            yield text.value(most)
        except _TooLongError:
            raise too_long(f"{path}: entry {number}", most) from None
        except UnreadableError as error:
            raise DataError(f"{path}: cannot be read as JSON: entry {number}: {error}") from None
    if not text.is_over():
        raise DataError(f"{path}: cannot be read as JSON: there is more behind its list")


class _TooLongError(Exception):
    """An entry has more bytes than are allowed."""


class _Window:
    """The part of a JSON text that is being read: values are taken from its front."""

    def __init__(self, path: Path) -> None:
        self._chunks = _chunks(path)
        self._text, self._at = "", 0

    def take(self, mark: str) -> bool:
        """Pass white space, and ``mark`` if it comes next."""
        found = not self.is_over() and self._text[self._at] == mark
        self._at += found
        return found

    def is_over(self) -> bool:
        """True if nothing but white space is left."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text):
                return False
            if not self._more():
                return True

    def value(self, most: int) -> Any:
        """Take a value of at most so many bytes. Raises ``UnreadableError`` and ``_TooLongError``.

        Where it is cut off the window grows, by as much as it has: parsing anew stays cheap.
        """
        self.is_over()
        while True:
            try:
                found, end = _DECODER.raw_decode(self._text, self._at)
                break
            except json.JSONDecodeError as error:
                # Some broken escapes and words are cut off up to five letters before the end.
                is_cut = error.msg.startswith("Unterminated") or error.pos > len(self._text) - 6
                if not is_cut:
                    raise UnreadableError(error.msg) from None
                if len(self._text) - self._at > most:
                    raise _TooLongError from None
                if not self._more():
                    raise UnreadableError(error.msg) from None
            except (RecursionError, ValueError) as error:
                raise UnreadableError(reason(error)) from None
        text = self._text[self._at : end]
        if len(text) > most or (4 * len(text) > most and len(text.encode(errors="replace")) > most):
            raise _TooLongError
        self._at = end
        return checked(text, found)

    def _more(self) -> bool:
        """Read on, at least as much as there is; False at the end of the file."""
        pieces = [self._text[self._at :]]
        wanted = len(pieces[0])
        while wanted >= 0 and (piece := next(self._chunks, None)) is not None:
            pieces.append(piece)
            wanted -= max(len(piece), 1)
        self._text, self._at = "".join(pieces), 0
        return len(pieces) > 1


_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")


# --- separated values ----------------------------------------------------------------------------
def _separated(path: Path, most: int, delimiter: str) -> Table:
    """Every field is text, as it stands in the file; quoted ones may hold newlines."""
    header = next(_records(path, most, delimiter), (1, []))[1]
    if not header:
        raise DataError(f"{path}: it is empty; its first line must name the columns")
    if twice := [name for name, times in Counter(header).items() if times > 1]:
        raise DataError(f"{path}: two columns are called '{short(twice[0])}'; rename one")

    def rows(_: Collection[str] = ()) -> Rows:
        records = _records(path, most, delimiter)
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


def _records(path: Path, most: int, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line it begins on, fields) of every record that is not blank."""
    begin, read = 1, 0

    def lines() -> Iterator[str]:
        nonlocal read
        for line in _lines(path, most):
            read += len(line)
            if read > most + 1:
                raise too_long(f"{path}: the record on line {begin}", most)
            yield line

    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    while True:
        read = 0
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
def _parquet(path: Path, most: int) -> Table:
    def rows(columns: Collection[str]) -> Rows:
        number = 0
        for batch in _batches(path, sorted(columns), most):
            if batch.nbytes > most:
                for row in range(len(batch)):
                    if batch.slice(row, 1).nbytes > most:
                        raise too_long(f"{path}: row {number + row + 1}", most)
            # A batch that is long as a whole becomes Python's values in parts.
            part = max(1, _BATCH_BYTES // max(1, min(batch.nbytes, most)))
            for begin in range(0, len(batch), part):
                for values in batch.slice(begin, part).to_pylist():
                    number += 1
                    yield number, values

    with _arrow(path) as file:
        if not file.metadata.num_rows:
            raise DataError(f"{path}: there is no example in it")
        return Table(str(path), path.name, tuple(file.schema_arrow.names), rows)


@contextmanager
def _arrow(path: Path, columns: Sequence[str] = ()) -> Iterator[Any]:
    """The file, with its ``columns`` as dictionaries. Raises ``DataError`` for what goes wrong."""
    try:
        with pq.ParquetFile(path, read_dictionary=columns) as file:
            yield file
    except UnicodeDecodeError:
        raise DataError(f"{path}: a column of text is not UTF-8; write it as UTF-8") from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from None


def _batches(path: Path, columns: list[str], most: int) -> Iterator[Any]:
    """The rows in batches of about ``_BATCH_BYTES`` at most, unless the file's metadata lie."""
    with _arrow(path) as file:
        texts = [c for c in columns if pa.types.is_string(file.schema_arrow.field(c).type)]
        for group in range(file.num_row_groups):
            longest = _mean_bytes(file.metadata.row_group(group), columns)
            if longest > most + _CHUNK:  # with what pages need beside their values
                raise too_long(f"{path}: a row of row group {group + 1}", most)
            longest = max(longest, _longest_repeated(path, texts, group))
            size = max(1, min(_BATCH, _BATCH_BYTES // max(1, longest)))
            yield from file.iter_batches(size, row_groups=[group], columns=columns)


def _mean_bytes(group: Any, columns: Collection[str]) -> int:
    """Bytes of a row's ``columns`` in a row group, as its metadata have them."""
    chunks = (group.column(i) for i in range(group.num_columns))
    read = (c for c in chunks if c.path_in_schema.partition(".")[0] in columns)
    return int(sum(chunk.total_uncompressed_size for chunk in read) // max(1, group.num_rows))


def _longest_repeated(path: Path, texts: list[str], group: int) -> int:
    """Bytes of the longest text that stands in a row group once, for any number of rows.

    With its first row comes the whole dictionary.
    """
    longest = 0
    for column in texts:
        with _arrow(path, [column]) as file:
            for batch in file.iter_batches(1, row_groups=[group], columns=[column]):
                sizes = pc.binary_length(batch.column(0).dictionary)
                longest = max(longest, pc.max(sizes).as_py() or 0)
                break
    return longest


# --- running text --------------------------------------------------------------------------------
def _text(path: Path, most: int) -> Table:
    """The texts between blank lines, as one column ``text``."""

    def rows(_: Collection[str] = ()) -> Rows:
        begin, lines, size = 0, list[str](), 0
        for number, line in enumerate(_lines(path, most), 1):
            if not line.isspace():
                begin, size = (begin, size + len(line)) if lines else (number, len(line))
                if size > most + 1:
                    raise too_long(f"{path}: the text that begins on line {begin}", most)
                lines.append(line)
            elif lines:
                yield begin, {"text": "".join(lines).rstrip("\n")}
                lines = []
        if lines:
            yield begin, {"text": "".join(lines).rstrip("\n")}

    return Table(str(path), path.name, ("text",), rows)


KINDS: dict[str, Callable[[Path, int], Table]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": lambda path, most: _separated(path, most, ","),
    ".tsv": lambda path, most: _separated(path, most, "\t"),
    ".parquet": _parquet,
    ".txt": _text,
    ".md": _text,
}
TEXT = (".txt", ".md")
