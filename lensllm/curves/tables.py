"""Tables of fine-tuning losses measured elsewhere: published ones, a file, or a DataFrame.

Two forms, told apart by the header. Long: a row per cell, with columns candidate, size, loss and,
if known, seed, parameters and family. Wide: a row per candidate and a column of losses per size,
named by it (0, 200, 400, …; 0 is zero-shot).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lensllm.core.errors import DataError, listing, suggestion
from lensllm.core.untrusted import short
from lensllm.curves import sheet as sheets
from lensllm.curves.curve import MOST_SIZES, Curves, Metric, curves_from_cells
from lensllm.curves.sheet import GAPS, KINDS, Sheet, number, whole

T = TypeVar("T")
Integers = NDArray[np.int64]

# Names as people write them, without case, spaces, hyphens and underscores; the first that a
# table has is taken.
_NAMES = {
    "candidate": "candidate configname config modelname modelid model name checkpoint llm",
    "size": "size d n examples numexamples nexamples samples numsamples nsamples trainsize "
    "trainingsize trainexamples trainingexamples ntrain numtrain datasize datasetsize subsetsize",
    "seed": "seed randomseed",
    "parameters": "parameters numparameters nparameters params numparams nparams weights modelsize",
    "family": "family modelfamily",
    "tokenizer": "tokenizer",
    "bits_per_byte": "bitsperbyte bpb",
    "nats_per_token": "natspertoken",
    "loss": "loss testloss heldoutloss evalloss validationloss valloss",
    # Further columns of numbers, which a table written by lensllm has.
    "train_nats_per_token": "trainnatspertoken",
    "validation_nats_per_token": "validationnatspertoken",
    "learning_rate_integral": "learningrateintegral",
    "train_flops": "trainflops",
    "evaluation_flops": "evaluationflops",
}
_MEASURED = tuple(_NAMES)[-5:]
# The columns of the stored table curve/cells.
CELL_COLUMNS = (
    *("candidate", "family", "tokenizer", "size", "seed", "nats_per_token", "bits_per_byte"),
    *(*_MEASURED[:3], "parameters", *_MEASURED[3:]),
)
_NUMBER = re.compile(r"[+-]?(?:\d[\d,]*\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.IGNORECASE)
_SIZE_PREFIX = re.compile(r"^[dn]\s*[=_]?\s*(?=[\d+-])", re.IGNORECASE)  # D=200
_UNITS = {"k": 1e3, "m": 1e6, "b": 1e9}  # of a number of weights

_LARGEST_LOSS = 1e6  # no mean loss is above it, whatever its unit
_FEWEST_SIZES = 3  # a curve of two parameters and one point to see it fail
# Every predictor is compared on all pairs of them; of more than this another column was meant.
_MOST_CANDIDATES = 1_000
_LONGEST_NAME = 200
_MOST_WEIGHTS = 2**53  # a float holds every whole number up to it
_MOST_BYTES = 2**26  # of a file; a thousand candidates at a hundred sizes are 5 MB


@dataclass(frozen=True)
class Published:
    """Where a table that comes with lensllm is from, and its oddities as sentences."""

    citation: str
    notes: tuple[str, ...]


_LIN = (
    "Losses measured by H. Lin et al., “Selecting Large Language Model to Fine-tune via Rectified "
    "Scaling Law”, ICML 2024, arXiv:2402.02314 (Apache-2.0)."
)
_TOKENS = "Losses are per token of each model's own tokenizer."
PUBLISHED = {  # each of 30 models, fine-tuned on 200 to 1,638,400 examples
    "flan": Published(_LIN, (_TOKENS,)),
    "gigaword": Published(
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

    # CELL_COLUMNS; candidates in the table's order, sizes and seeds ascending. Unknown values are
    # NaN, "", or NA in ``parameters``, an Int64 column.
    cells: pd.DataFrame
    metric: Metric  # the column of ``cells`` to rank by
    citation: str  # of a published table; "" for the user's own
    notes: tuple[str, ...]  # sentences about oddities and about what was left out


def fingerprint(source: str) -> dict[str, str]:
    """The checksum of a table's file, for the key of an artefact.

    Raises DataError as ``read`` does for a source that is not there.
    """
    return {"sha256": hashlib.sha256(_load(source)[1]).hexdigest()}


def read(source: str) -> LossTable:
    """The table of a name in ``PUBLISHED``, or of a .csv, .tsv or .parquet file.

    Empty cells are left out. Losses without a unit in their name are taken as nats per token; of
    both units bits per byte are chosen, which compare models with different tokenizers. A copy of
    a published table is recognised by its content.

    Raises DataError, a sentence with the file, row and column, for whatever is not such a table.
    """
    kind, content = _load(source)
    published = next((p for name, p in PUBLISHED.items() if _load(name)[1] == content), None)
    return _table(sheets.parse(content, source, kind), published)


def from_frame(frame: pd.DataFrame, name: str = "the table") -> LossTable:
    """The table of a DataFrame; ``name`` stands for the file's in error sentences.

    Forms and columns are recognised as ``read`` does. An index that has a name or holds texts is
    read as columns too, so the result of ``DataFrame.pivot`` is a wide table.

    Raises DataError, a sentence with the row and column, for whatever is not such a table.

    >>> losses = {"model": ["a", "b"], 200: [3.1, 2.9], 400: [2.8, 2.7], 800: [2.5, 2.6]}
    >>> table = from_frame(pd.DataFrame(losses))
    >>> table.cells[["candidate", "size", "nats_per_token"]].head(2)
      candidate  size  nats_per_token
    0         a   200             3.1
    1         a   400             2.8
    """
    return _table(sheets.from_frame(frame, name))


def read_curves(source: str | Path | pd.DataFrame) -> Curves:
    """Read the learning curves of a table of losses.

    Args:
        source: a DataFrame, the path of a .csv, .tsv or .parquet file, or the name of a published
            table, *flan* or *gigaword* (Lin et al. 2024). A wide table has a row per candidate and
            a column of losses per number of training examples, 0 for the pretrained model; a long
            one has the columns candidate, size, loss and, for repeated runs, seed.

    Returns:
        Curves of M candidates at S sizes, losses in the unit of the table; NaN where a loss is
        missing. ``until(budget)`` leaves out larger sizes, ``losses_at(size)`` is the truth there.

    Raises:
        DataError: the table cannot be read as losses of at least two candidates at three sizes;
            the message names row and column.

    >>> losses = {"model": ["a", "b"], 200: [3.1, 2.9], 400: [2.8, 2.7], 800: [2.5, 2.6]}
    >>> curves = read_curves(pd.DataFrame(losses))
    >>> curves.candidates, curves.sizes, curves.losses_at(800)
    (('a', 'b'), array([200., 400., 800.]), {'a': 2.5, 'b': 2.6})
    """
    table = from_frame(source) if isinstance(source, pd.DataFrame) else read(str(source))
    return curves_from_cells(table.cells, table.metric, int(table.cells["size"].max()))


def _table(sheet: Sheet, published: Published | None = None) -> LossTable:
    columns = _recognise(sheet)
    codes, names = _candidates(sheet, columns.named["candidate"])
    cells, metric = _cells(sheet, columns, codes)
    measured = _measured(sheet, columns, cells, metric, names)
    known = _described(sheet, columns, codes, names).iloc[measured["candidate"]]
    measured = measured.assign(**known.reset_index(drop=True))
    return LossTable(
        cells=measured.reindex(columns=list(CELL_COLUMNS)),
        metric=metric,
        citation=published.citation if published else "",
        notes=(
            *(published.notes if published else ()),
            *_notes(columns, len(cells), measured, names),
        ),
    )


# --- files --------------------------------------------------------------------------------------
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
    if source in PUBLISHED:
        return Path(__file__).with_name("published") / f"{source}.csv"
    path = Path(source).expanduser()
    if not source.strip():
        raise DataError(f"no table: name {_or(PUBLISHED)}, or a {_or(KINDS)} file")
    if path.is_dir():
        raise DataError(f"{source}: is a folder: name a {_or(KINDS)} file")
    if path.is_file() and path.suffix.lower() not in KINDS:
        raise DataError(f"{source}: is no {_or(KINDS)} file: save the table as one of them")
    if path.is_file():
        return path
    if path.suffix or len(path.parts) > 1:
        near = [neighbour.name for neighbour in path.parent.glob("*")]
        raise DataError(f"{source}: no such file{suggestion(path.name, [*near, *PUBLISHED])}")
    raise DataError(
        f"{source}: neither a file nor a published table{suggestion(source.lower(), PUBLISHED)}: "
        f"name {_or(PUBLISHED)}, or a {_or(KINDS)} file"
    )


def _or(words: Iterable[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} or {last}"


# --- columns ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Columns:
    """Positions of a sheet's columns: ``sizes`` in the wide form, ``losses`` in the long one."""

    named: Mapping[str, int]  # by the keys of _NAMES, without those of losses
    sizes: Mapping[int, int]  # position -> D; empty in the long form
    losses: Mapping[Metric, int]  # the one to rank by first; empty in the wide form
    unused: tuple[str, ...]  # titles of the others


def _recognise(sheet: Sheet) -> _Columns:
    """Columns by their titles.

    Raises DataError for a table without a header, without candidates or losses, and for a column
    that stands twice.
    """
    found = {meaning: _position(sheet, meaning, names.split()) for meaning, names in _NAMES.items()}
    named = {meaning: position for meaning, position in found.items() if position is not None}
    sizes = _sizes(sheet, is_header=bool(named))
    if sizes:
        _take_size_as_weights(sheet, named)
    if "candidate" not in named:
        named["candidate"] = _first_text(sheet, {*named.values(), *sizes})
    losses = {} if sizes else _losses(sheet, named)
    used = {*named.values(), *sizes, *losses.values()}
    unused = tuple(title for i, title in enumerate(sheet.titles) if title and i not in used)
    return _Columns(named, sizes, losses, unused)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name.lower())


def _position(sheet: Sheet, meaning: str, names: Sequence[str]) -> int | None:
    """The column with a meaning; None if no column has any of its names."""
    plain = [_plain(title) for title in sheet.titles]
    matches = [(i, name) for name in names for i, title in enumerate(plain) if title == name]
    if not matches:
        return None
    # Which of two could be D is not to be guessed: size may count weights.
    rivals = [i for i, name in matches if name == matches[0][1] or meaning == "size"]
    if len(rivals) > 1:
        titles = " and ".join(f"'{sheet.titles[i]}'" for i in rivals)
        weights = " ('parameters' if it counts weights)" if meaning == "size" else ""
        raise DataError(f"{sheet.name}: columns {titles} are both a {meaning}: rename one{weights}")
    return rivals[0]


def _sizes(sheet: Sheet, *, is_header: bool) -> dict[int, int]:
    """Position -> D of the columns whose title is a number.

    ``is_header`` says that some title has a known name, so the first line is no row of data.
    """
    bare = {i: _SIZE_PREFIX.sub("", title) for i, title in enumerate(sheet.titles)}
    numeric = {i: text for i, text in bare.items() if _NUMBER.fullmatch(text)}
    found = {i: whole(text) for i, text in numeric.items()}
    if not is_header and numeric:
        odd = [text for i, text in numeric.items() if found[i] is None]
        # A title that stands in its own column again is a candidate.
        others = (i for i, title in enumerate(sheet.titles) if title and i not in numeric)
        if odd or any(sheet.titles[i] in sheet.distinct(i) for i in others):
            raise DataError(
                f"{sheet.name}: the first line looks like data "
                f"('{[*odd, *numeric.values()][0]}'): put a header above it, such as "
                "candidate,size,loss,seed"
            )
    sizes: dict[int, int] = {}
    for column, size in found.items():
        if size is None or size < 0:
            raise DataError(
                f"{sheet.name}: column '{sheet.titles[column]}' is no training size: name it by "
                "the whole number of examples, 0 for zero-shot"
            )
        if size in sizes.values():
            raise DataError(
                f"{sheet.name}: two columns hold the losses at D = {size:,}: keep one, or give "
                "repeats rows of their own with a column seed"
            )
        sizes[column] = size
    if numeric and len(numeric) == len(sheet.titles):
        raise DataError(
            f"{sheet.name}: the first line is numbers only: put a header above it, or a column "
            "of candidates beside them"
        )
    return sizes


def _take_size_as_weights(sheet: Sheet, named: dict[str, int]) -> None:
    """Where sizes are columns, a column ``size`` counts weights, as in the published tables."""
    size = named.pop("size", None)
    if size is None or _plain(sheet.titles[size]) != "size":
        return
    if "parameters" in named:
        titles = f"'{sheet.titles[size]}' and '{sheet.titles[named['parameters']]}'"
        raise DataError(f"{sheet.name}: columns {titles} are both a number of weights: remove one")
    named["parameters"] = size


def _first_text(sheet: Sheet, taken: set[int]) -> int:
    """The first column outside ``taken`` that holds anything but numbers."""
    for column in set(range(len(sheet.titles))) - taken:
        for text in sheet.distinct(column):
            if text.lower() not in GAPS and not _NUMBER.fullmatch(text):
                return column
    raise DataError(
        f"{sheet.name}: no column of candidates: call it 'candidate'; "
        "a table with a column per model must be transposed"
    )


def _losses(sheet: Sheet, named: dict[str, int]) -> dict[Metric, int]:
    """The long form's columns of losses, taken out of ``named``; the one to rank by first.

    A plain loss is a mean over tokens, as every training library prints it.
    """
    plain = named.pop("loss", None)
    units: tuple[Metric, ...] = ("bits_per_byte", "nats_per_token")
    found = {unit: named.pop(unit) for unit in units if unit in named}
    if not found and plain is not None:
        found["nats_per_token"] = plain
    if found and "size" in named:
        return found
    missing = "loss" if "size" in named else "size"
    raise DataError(
        f"{sheet.name}: no column '{missing}'{suggestion(missing, sheet.titles)}, nor columns "
        f"named by training sizes (0, 200, 400, …); it has {listing(filter(None, sheet.titles))}"
    )


# --- cells --------------------------------------------------------------------------------------
def _candidates(sheet: Sheet, column: int) -> tuple[Integers, list[str]]:
    """(N,) code of each row's candidate, and the names by code, in the table's order."""
    codes, names = pd.factorize(sheet.columns[column])
    for code, name in enumerate(names):
        problem = "" if name else "is blank: name the candidate"
        if len(name) > _LONGEST_NAME:
            problem = f"the name has {len(name):,} characters, of at most {_LONGEST_NAME}: cut it"
        if problem:
            raise sheet.error(int(np.argmax(codes == code)), column, problem)
    return codes.astype(np.int64), list(names)


def _cells(sheet: Sheet, columns: _Columns, codes: Integers) -> tuple[pd.DataFrame, Metric]:
    """Candidate (a code), size, seed and losses, with each cell's row and column in the sheet."""
    named = columns.named
    seeds: Integers | int = sheet.wholes(named["seed"], "seed", -np.inf) if "seed" in named else 0
    rows = pd.DataFrame({"candidate": codes, "seed": seeds, "row": np.arange(len(codes))})
    if columns.sizes:
        frames = [
            rows.assign(size=size, nats_per_token=sheet.numbers(column), column=column)
            for column, size in columns.sizes.items()
        ]
        order = ["row", "column"]
        return pd.concat(frames).sort_values(order, ignore_index=True), "nats_per_token"
    losses: dict[Metric, NDArray[np.float64]]
    losses = {unit: sheet.numbers(column) for unit, column in columns.losses.items()}
    filled = (unit for unit, values in losses.items() if not np.isnan(values).all())
    metric = next(filled, next(iter(losses)))
    others = {name: sheet.numbers(named[name]) for name in _MEASURED if name in named}
    sizes = sheet.wholes(named["size"], "training size", least=0)
    numbers = {str(unit): values for unit, values in losses.items()} | others
    return rows.assign(size=sizes, column=columns.losses[metric], **numbers), metric


def _measured(
    sheet: Sheet, columns: _Columns, cells: pd.DataFrame, metric: Metric, names: Sequence[str]
) -> pd.DataFrame:
    """The cells with a loss, sorted; raises DataError for the first that cannot be used."""
    losses = cells[metric].to_numpy()
    wrong = (losses <= 0) | (losses > _LARGEST_LOSS)
    if wrong.any():
        cell = cells.iloc[int(np.argmax(wrong))]
        problem = f"the loss of {names[int(cell['candidate'])]} at D = {int(cell['size']):,} is "
        if np.isinf(cell[metric]):
            problem += "infinite: leave the cell of a diverged run empty"
        elif cell[metric] > 0:
            problem += f"{cell[metric]:g}, which no mean loss is: correct it, or leave it empty"
        else:
            problem += f"{cell[metric]:g} and must be positive: correct it, or leave the cell empty"
        raise sheet.error(int(cell["row"]), int(cell["column"]), problem)
    key = ["candidate", "size", "seed"]
    measured: pd.DataFrame = cells[~np.isnan(losses)].sort_values(
        key, kind="stable", ignore_index=True
    )
    twice = measured.duplicated(key).to_numpy()
    if twice.any():
        second = int(np.argmax(twice))
        cell = measured.iloc[second]
        raise DataError(
            f"{sheet.name}: {names[int(cell['candidate'])]}, D = {int(cell['size']):,}, seed "
            f"{int(cell['seed'])} stands in {sheet.place(int(measured['row'].iloc[second - 1]))} "
            f"and in {sheet.place(int(cell['row']))}: remove one, or tell repeats apart in a "
            "column seed"
        )
    found = measured["candidate"].unique()
    if len(found) < 2:
        which = f"one candidate only ('{names[found[0]]}')" if len(found) else "no candidate"
        raise DataError(f"{sheet.name}: it has losses of {which}: give at least two to compare")
    if len(found) > _MOST_CANDIDATES:
        title = sheet.titles[columns.named["candidate"]]
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


def _described(
    sheet: Sheet, columns: _Columns, codes: Integers, names: Sequence[str]
) -> pd.DataFrame:
    """A row per candidate: its name, family, tokenizer and parameters."""

    def known(meaning: str, read: Callable[[str], T | None]) -> list[T | None]:
        """A value per candidate, None where none is given; its rows must agree."""
        found: dict[int, T] = {}
        if (column := columns.named.get(meaning)) is None:
            return [None] * len(names)
        pairs = pd.DataFrame({"code": codes, "text": sheet.columns[column]}).drop_duplicates()
        for row, code, text in pairs.itertuples():
            if text.lower() in GAPS:
                continue
            value = read(text)
            if value is None:
                problem = f"'{short(text)}' is no number of weights: write it as 124000000 or 124M"
                raise sheet.error(row, column, problem)
            if found.setdefault(code, value) != value:
                values = f"'{short(text)}' here and '{short(found[code])}' above"
                raise sheet.error(row, column, f"{names[code]} has {values}: make them agree")
        return [found.get(code) for code in range(len(names))]

    return pd.DataFrame(
        {
            "candidate": names,
            "family": [family or "" for family in known("family", str)],
            "tokenizer": [tokenizer or "" for tokenizer in known("tokenizer", str)],
            "parameters": pd.array(known("parameters", _weights), dtype="Int64"),
        }
    )


def _weights(text: str) -> int | None:
    """The number of weights in 124440576, 1.24e8 or 124M; None where there is none."""
    unit = _UNITS.get(text[-1].lower())
    value = number(text[:-1] if unit else text)
    if value is None or not 1 <= value * (unit or 1) <= _MOST_WEIGHTS:
        return None
    return round(value * (unit or 1))


def _notes(
    columns: _Columns, count: int, measured: pd.DataFrame, names: Sequence[str]
) -> list[str]:
    """Sentences about what was left out of ``count`` cells."""
    notes = []
    if gaps := count - len(measured):
        notes.append(f"{gaps:,} of {count:,} losses are empty and were left out.")
    present = set(measured["candidate"])
    if absent := [name for name in names if name not in present]:
        notes.append(f"Left out for having no loss at all: {', '.join(absent)}.")
    if (sizes := measured["size"].nunique()) > MOST_SIZES:
        notes.append(
            f"Of {sizes:,} training sizes predictors read {MOST_SIZES} up to the budget at most, "
            "evenly spread in log size."
        )
    if columns.unused:
        notes.append(f"Columns that were not used: {', '.join(columns.unused)}.")
    return notes
