"""Where examples come from: an embedded task, or a file of the user's."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from lensllm.config import Data
from lensllm.data import docstrings, names, python_files
from lensllm.errors import DataError, suggestion

BUILTIN = {"builtin:docstrings": docstrings.pairs, "builtin:names": names.pairs}
_READERS = {
    ".jsonl": pyarrow.json.read_json,
    ".csv": pyarrow.csv.read_csv,
    ".parquet": pyarrow.parquet.read_table,
}


def fingerprint(data: Data) -> dict[str, Any]:
    """What the examples are determined by: package versions, or the file's checksum.

    Raises ``DataError`` when the file or package is missing or its kind is unknown.
    """
    if data.source in BUILTIN:
        return {"source": data.source, "packages": python_files.fingerprint(data.packages)}
    path = _file(data)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"sha256": digest, "prompt": data.prompt, "completion": data.completion}


def load(data: Data) -> pd.DataFrame:
    """Examples as the table ``dataset/examples``: prompt, completion, split.

    ``split`` is train or test where the source knows, and empty where the test set is still to be
    drawn. Exact duplicates are dropped, so that none can stand on both sides of that split.
    """
    if data.source in BUILTIN:
        return BUILTIN[data.source](data.packages)
    path = _file(data)
    try:
        table: pa.Table = _READERS[path.suffix.lower()](path)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as {path.suffix[1:]}: {error}") from None
    for column in (data.prompt, data.completion):
        if column not in table.column_names:
            raise DataError(
                f"{path}: no column '{column}'{suggestion(column, table.column_names)}; "
                f"it has {', '.join(table.column_names)}; set data.prompt and data.completion"
            )
    frame = table.select([data.prompt, data.completion]).to_pandas()
    frame.columns = pd.Index(["prompt", "completion"])
    for column in ("prompt", "completion"):
        bad = ~frame[column].map(lambda v: isinstance(v, str) and bool(v.strip()))
        if bad.any():
            row = int(bad.to_numpy().argmax())
            raise DataError(
                f"{path}: row {row + 1} of column '{getattr(data, column)}' is empty or no text"
            )
    distinct: pd.DataFrame = frame.drop_duplicates(ignore_index=True).assign(split="")
    return distinct


def _file(data: Data) -> Path:
    path = Path(data.source).expanduser()
    if data.source.startswith("builtin:"):
        raise DataError(f"data.source: no '{data.source}'; there are {', '.join(BUILTIN)}")
    if path.suffix.lower() not in _READERS:
        raise DataError(f"data.source: {path} is none of {', '.join(_READERS)}")
    if not path.is_file():
        raise DataError(f"data.source: no such file: {path}")
    return path
