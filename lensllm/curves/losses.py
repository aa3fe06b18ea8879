"""Tables of fine-tuning losses measured elsewhere: two published ones, or a file of the user's.

Two forms, told apart by the header. Long: a row per cell, with columns candidate, size, loss and,
if known, seed, parameters and family. Wide: a row per candidate and a column of losses per size,
named by it (0, 200, 400, …; 0 is zero-shot).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lensllm.core.errors import DataError, suggestion
from lensllm.curves.curve import MOST_SIZES, Metric
from lensllm.curves.loss_columns import MEASURED, Columns, per_candidate, recognise, weights, wholes
from lensllm.curves.loss_sheet import KINDS, Integers, Sheet, parse
from lensllm.store import schemas

_TABLES = Path(__file__).with_name("tables")
_CELL = ["candidate", "size", "seed"]
_LOSSES = 0.0, 1e6  # a mean loss lies between them, whatever its unit
_FEWEST_SIZES = 3  # a curve of two parameters and one point to see it fail
# Every predictor is compared on all pairs of them; of more than this another column was meant.
_MOST_CANDIDATES = 1_000
_LONGEST_NAME = 200
_MOST_BYTES = 2**26  # of a file; a thousand candidates at a hundred sizes are 5 MB


@dataclass(frozen=True)
class Builtin:
    """A published table that comes with lensllm."""

    about: str
    citation: str
    notes: tuple[str, ...]


_LIN = (
    "Losses measured by H. Lin et al., “Selecting Large Language Model to Fine-tune via Rectified "
    "Scaling Law”, ICML 2024, arXiv:2402.02314 (Apache-2.0)."
)
_TOKENS = "Losses are per token of each model's own tokenizer."
BUILTIN = {
    "flan": Builtin("30 models fine-tuned on 200 to 1,638,400 examples of FLAN", _LIN, (_TOKENS,)),
    "gigaword": Builtin(
        "30 models fine-tuned on 200 to 1,638,400 examples of Gigaword",
        _LIN,
        (
            _TOKENS,
            "microsoft/phi-2 differs from MBZUAI/LaMini-GPT-1.5B by exactly −0.05, 0 and +0.02 at "
            "the last three sizes, which looks edited.",
            "The loss of facebook/bart-base falls by 15 % in one step, from 6,400 to 12,800.",
        ),
    ),
}


@dataclass(frozen=True)
class LossTable:
    """Losses of at least two candidates at three sizes or more."""

    # schema curve/cells; candidates in the file's order, sizes and seeds ascending. What is
    # unknown is NaN, "", or NA in ``parameters``, an Int64 column.
    cells: pd.DataFrame
    metric: Metric  # the column of ``cells`` with the losses
    families: dict[str, str] | None  # candidate -> family, of those that have one
    citation: str  # of a published table; "" for the user's own
    notes: tuple[str, ...]  # sentences worth showing


def fingerprint(source: str) -> dict[str, Any]:
    """What the table is determined by: the checksum of its file, wherever that lies.

    Raises DataError as ``read`` does for a source that is not there.
    """
    return {"sha256": hashlib.sha256(_load(source)[1]).hexdigest()}


def read(source: str) -> LossTable:
    """The table of a name in ``BUILTIN``, or of a .csv, .tsv or .parquet file.

    Empty cells are left out. Losses without a unit in their name are taken as nats per token; of
    both units bits per byte are chosen, which compare models with different tokenizers. A copy of
    a published table is known by its content.

    Raises DataError, a sentence with the file, row and column, for whatever is not such a table.
    """
    kind, content = _load(source)
    sheet = parse(content, source, kind)
    columns = recognise(sheet)
    codes, names = _codes(sheet, columns)
    cells, metric = (_wide if columns.sizes else _long)(sheet, columns, codes)
    measured = _measured(sheet, columns, cells, metric, names)
    candidates = _candidates(sheet, columns, codes, names)
    families = dict(zip(candidates["candidate"], candidates["family"], strict=True))
    known = next((b for name, b in BUILTIN.items() if _load(name)[1] == content), None)
    return LossTable(
        cells=_described(measured, candidates),
        metric=metric,
        families={name: family for name, family in families.items() if family} or None,
        citation=known.citation if known else "",
        notes=(*(known.notes if known else ()), *_notes(columns, cells, measured, names)),
    )


# --- finding --------------------------------------------------------------------------------------


def _load(source: str) -> tuple[str, bytes]:
    """Kind and content of the file that a source names."""
    try:
        path = _file(source)
        with path.open("rb") as stream:
            content = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise DataError(f"{source}: cannot be read: {error.strerror}") from None
    if len(content) > _MOST_BYTES:
        raise DataError(f"{source}: it has more than {_MOST_BYTES:,} bytes: rank in parts")
    return path.suffix.lower(), content


def _file(source: str) -> Path:
    if source in BUILTIN:
        return _TABLES / f"{source}.csv"
    path = Path(source).expanduser()
    if not source.strip():
        raise DataError(f"no table: name {_or(BUILTIN)}, or a {_or(KINDS)} file")
    if path.is_dir():
        raise DataError(f"{source}: is a folder: name a {_or(KINDS)} file")
    if path.is_file() and path.suffix.lower() not in KINDS:
        raise DataError(f"{source}: is no {_or(KINDS)} file: save the table as one of them")
    if path.is_file():
        return path
    if path.suffix or len(path.parts) > 1:
        near = [neighbour.name for neighbour in path.parent.glob("*")]
        raise DataError(f"{source}: no such file{suggestion(path.name, [*near, *BUILTIN])}")
    raise DataError(
        f"{source}: neither a file nor a published table{suggestion(source.lower(), BUILTIN)}: "
        f"name {_or(BUILTIN)}, or a {_or(KINDS)} file"
    )


def _or(words: Iterable[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} or {last}"


# --- cells: candidate (a code), size, seed, losses; row and column in the sheet -------------------


def _codes(sheet: Sheet, columns: Columns) -> tuple[Integers, list[str]]:
    """(N,) code of each row's candidate, and the names by code, in the file's order."""
    codes, names = sheet.levels(columns.roles["candidate"])
    if "" in names:
        row = int(np.argmax(codes == names.index("")))
        raise sheet.error(row, columns.roles["candidate"], "is blank: name the candidate")
    if longest := next((name for name in names if len(name) > _LONGEST_NAME), ""):
        row = int(np.argmax(codes == names.index(longest)))
        problem = f"the name has {len(longest):,} characters, of at most {_LONGEST_NAME}: cut it"
        raise sheet.error(row, columns.roles["candidate"], problem)
    return codes, names


def _long(sheet: Sheet, columns: Columns, codes: Integers) -> tuple[pd.DataFrame, Metric]:
    losses = {metric: sheet.numbers(column) for metric, column in columns.losses.items()}
    filled = (metric for metric, values in losses.items() if not np.isnan(values).all())
    metric = next(filled, next(iter(losses)))
    others = {n: sheet.numbers(columns.roles[n]) for n in MEASURED if n in columns.roles}
    sizes = wholes(sheet, columns.roles["size"], "training size", least=0)
    cells = {"candidate": codes, "size": sizes, "seed": _seeds(sheet, columns)}
    frame = pd.DataFrame(cells).assign(**losses, **others)
    return frame.assign(row=np.arange(len(codes)), column=columns.losses[metric]), metric


def _wide(sheet: Sheet, columns: Columns, codes: Integers) -> tuple[pd.DataFrame, Metric]:
    rows, sizes = len(codes), list(columns.sizes.values())
    cells = {
        "candidate": np.repeat(codes, len(sizes)),
        "size": np.tile(sizes, rows),
        "seed": np.repeat(_seeds(sheet, columns), len(sizes)),
        "nats_per_token": np.stack([sheet.numbers(c) for c in columns.sizes], axis=1).ravel(),
        "row": np.repeat(np.arange(rows), len(sizes)),
        "column": np.tile(list(columns.sizes), rows),
    }
    return pd.DataFrame(cells), "nats_per_token"


def _seeds(sheet: Sheet, columns: Columns) -> Integers:
    """(N,) seeds; all 0 where the table has none."""
    if "seed" not in columns.roles:
        return np.zeros(len(sheet.columns[0]), dtype=np.int64)
    return wholes(sheet, columns.roles["seed"], "seed", least=-np.inf)


def _measured(
    sheet: Sheet, columns: Columns, cells: pd.DataFrame, metric: Metric, names: Sequence[str]
) -> pd.DataFrame:
    """The cells with a loss, sorted, after all checks; raises DataError for the first bad one."""
    losses = cells[metric].to_numpy()
    wrong = (losses <= _LOSSES[0]) | (losses > _LOSSES[1])
    if wrong.any():
        cell = cells.iloc[int(np.argmax(wrong))]
        raise sheet.error(int(cell["row"]), int(cell["column"]), _wrong_loss(cell, metric, names))
    measured: pd.DataFrame = cells[~np.isnan(losses)].sort_values(
        _CELL, kind="stable", ignore_index=True
    )
    twice = measured.duplicated(_CELL).to_numpy()
    if twice.any():
        second = int(np.argmax(twice))
        raise DataError(_repeated(sheet, measured.iloc[second - 1 : second + 1], names))
    found = measured["candidate"].unique()
    if len(found) < 2:
        which = f"one candidate only ('{names[found[0]]}')" if len(found) else "no candidate"
        raise DataError(f"{sheet.name}: it has losses of {which}: give at least two to compare")
    if len(found) > _MOST_CANDIDATES:
        title = sheet.header[columns.roles["candidate"]]
        raise DataError(
            f"{sheet.name}: {len(found):,} candidates in the column '{title}', of at most "
            f"{_MOST_CANDIDATES:,}: call the column of models 'candidate', or rank in parts"
        )
    sizes = [size for size in np.unique(measured["size"]) if size]
    if len(sizes) < _FEWEST_SIZES:
        listed = ", ".join(f"{size:,}" for size in sizes) or "none"
        raise DataError(
            f"{sheet.name}: a curve needs losses at {_FEWEST_SIZES} training sizes above 0 and the "
            f"table has {listed}: add sizes"
        )
    return measured


def _wrong_loss(cell: pd.Series[Any], metric: Metric, names: Sequence[str]) -> str:
    who = f"the loss of {names[int(cell['candidate'])]} at D = {int(cell['size']):,}"
    if np.isinf(cell[metric]):
        return f"{who} is infinite: leave the cell of a diverged run empty"
    if cell[metric] > 0:
        return f"{who} is {cell[metric]:g}, which no mean loss is: correct it, or leave it empty"
    return f"{who} is {cell[metric]:g} and must be positive: correct it, or leave the cell empty"


def _repeated(sheet: Sheet, pair: pd.DataFrame, names: Sequence[str]) -> str:
    cell = pair.iloc[0]
    first, second = (sheet.place(int(row)) for row in pair["row"])
    return (
        f"{sheet.name}: {names[int(cell['candidate'])]}, D = {int(cell['size']):,}, seed "
        f"{int(cell['seed'])} stands in {first} and in {second}: remove one, or tell repeats "
        "apart in a column seed"
    )


def _candidates(
    sheet: Sheet, columns: Columns, codes: Integers, names: Sequence[str]
) -> pd.DataFrame:
    """A row per code: candidate, family, tokenizer, parameters."""
    families = per_candidate(sheet, columns, "family", codes, names, str)
    tokenizers = per_candidate(sheet, columns, "tokenizer", codes, names, str)
    parameters = per_candidate(sheet, columns, "parameters", codes, names, weights)
    return pd.DataFrame(
        {
            "candidate": names,
            "family": [families.get(name, "") for name in names],
            "tokenizer": [tokenizers.get(name, "") for name in names],
            "parameters": pd.array([parameters.get(name) for name in names], dtype="Int64"),
        }
    )


def _described(cells: pd.DataFrame, candidates: pd.DataFrame) -> pd.DataFrame:
    """The schema's columns, with what is known of a candidate in place of its code."""
    known = candidates.iloc[cells["candidate"]].reset_index(drop=True)
    cells = pd.concat([known, cells.drop(columns="candidate")], axis=1)
    return pd.DataFrame(cells, columns=schemas.schema("curve/cells").names)


def _notes(
    columns: Columns, cells: pd.DataFrame, measured: pd.DataFrame, names: Sequence[str]
) -> list[str]:
    """What was left out, as sentences."""
    notes = []
    if gaps := len(cells) - len(measured):
        notes.append(f"{gaps:,} of {len(cells):,} losses are empty and were left out.")
    present = set(measured["candidate"].unique())
    if absent := [name for code, name in enumerate(names) if code not in present]:
        notes.append(f"Left out for having no loss at all: {', '.join(absent)}.")
    if (sizes := measured["size"].nunique()) > MOST_SIZES:
        notes.append(
            f"Of {sizes:,} training sizes predictors read {MOST_SIZES} up to the budget at most, "
            "evenly spread in log size."
        )
    if columns.unused:
        notes.append(f"Columns that were not used: {', '.join(columns.unused)}.")
    return notes
