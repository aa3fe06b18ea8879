"""A user's file of text like what the candidates were pretrained on."""

from __future__ import annotations

from pathlib import Path

from lensllm.core.errors import DataError, listing, suggestion
from lensllm.core.untrusted import shown
from lensllm.data import readers

_KEY = "kernel.pretraining_text"
_COLUMN = "text"
_KINDS = (".txt", ".jsonl", ".csv", ".parquet")
_MOST_ROW_BYTES = 2**26  # a text may be a book
_MOST_BYTES = 2**28  # of a file and of its texts, since Parquet unfolds; megabytes are enough


def fingerprint(source: str) -> dict[str, str]:
    """The kind and the checksum of a file, which determine its texts.

    Raises DataError when the file is missing or of no known kind.
    """
    path = _file(source)
    return {"kind": path.suffix.lower(), "sha256": readers.checksum(path)}


def read(source: str) -> list[str]:
    """The distinct texts of a file: the column ``text`` of a table, or what stands between blank
    lines of a .txt file. Empty ones are dropped.

    Raises DataError as ``fingerprint`` does, for a table without that column, and for a file that
    is damaged or not UTF-8.
    """
    path = _file(source)
    texts, size = dict[str, None](), 0
    try:
        table = readers.open_table(path, _MOST_ROW_BYTES)
        if _COLUMN not in table.columns:
            raise DataError(
                f"{path}: no column '{_COLUMN}'{suggestion(_COLUMN, table.columns)}; it has "
                f"{listing(table.columns)}; rename the column with the texts"
            )
        for _, values in table.rows([_COLUMN]):
            text = values.get(_COLUMN)
            if text is None:
                continue
            if not isinstance(text, str):
                raise DataError(f"{path}: column '{_COLUMN}' holds {shown(text)}, not text")
            size += len(text)
            if size > _MOST_BYTES:
                raise DataError(f"{path}: its texts have more than {_MOST_BYTES:,} characters; "
                                "take a part of it")  # fmt: skip
            texts[text.strip()] = None
    except DataError as error:
        raise DataError(f"{_KEY}: {error}") from None
    texts.pop("", None)
    return list(texts)


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
