"""Tables of fine-tuning losses measured elsewhere: published ones, a file, or a DataFrame.

A long table has a row per cell, with columns candidate, size, loss and, if known, seed, parameters
and family. A wide one has a row per candidate and a column of losses per size, named by it
(0, 200, 400, …; 0 is zero-shot). The header tells which it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, get_args

import numpy as np
import pandas as pd

from lensllm.core.errors import DataError, listing, suggestion
from lensllm.core.untrusted import short
from lensllm.curves import sheet
from lensllm.curves.curve import MOST_SIZES, Curves, Metric, curves_from_cells
from lensllm.curves.sheet import KINDS

T = TypeVar("T")

# The columns of the stored table curve/cells.
CELL_COLUMNS = (
    *("candidate", "family", "tokenizer", "size", "repeat", "nats_per_token", "bits_per_byte"),
    *("train_nats_per_token", "validation_nats_per_token", "learning_rate_integral"),
    *("parameters", "train_flops", "trunk_flops", "evaluation_flops"),
)
_NUMBERS = (*CELL_COLUMNS[5:10], *CELL_COLUMNS[11:])
_OF_ROWS = ("candidate", "repeat", "parameters", "family", "tokenizer")  # of a wide table
# Other names that people give to columns, without case, spaces, hyphens and underscores; the first
# that a table has is taken.
_OTHER_NAMES = {
    "candidate": "configname config modelname modelid model name checkpoint llm",
    "size": "d n examples numexamples nexamples samples numsamples nsamples trainsize trainingsize "
    "trainexamples trainingexamples ntrain numtrain datasize datasetsize subsetsize",
    "repeat": "seed randomseed",
    "parameters": "numparameters nparameters params numparams nparams weights modelsize",
    "family": "modelfamily",
    "bits_per_byte": "bpb",
    "loss": "testloss heldoutloss evalloss validationloss valloss",
}
_GAPS = ("", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "null", "none", "-")
_NUMBER = re.compile(r"[+-]?(?:\d[\d,]*\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.IGNORECASE)
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.0*)?")
_SIZE_PREFIX = re.compile(r"^[dn]\s*[=_]?\s*(?=[\d+-])", re.IGNORECASE)  # D=200
_UNITS = {"k": 1e3, "m": 1e6, "b": 1e9}  # of a number of weights

_EXACT = 2**53  # a float holds every whole number up to it
_LARGEST_LOSS = 1e6  # no mean loss is above it, whatever its unit
_FEWEST_SIZES = 3  # a curve of two parameters and one point to see it fail
# Every predictor is compared on all pairs of them; of more than this another column was meant.
_MOST_CANDIDATES = 1_000
_LONGEST_NAME = 200
_MOST_BYTES = 2**26  # of a file; a thousand candidates at a hundred sizes are 5 MB

# Tables of 30 models, fine-tuned on 200 to 1,638,400 examples, and their oddities as sentences.
_LIN = (
    "Losses measured by H. Lin et al., “Selecting Large Language Model to Fine-tune via Rectified "
    "Scaling Law”, ICML 2024, arXiv:2402.02314 (Apache-2.0)."
)
_TOKENS = "Losses are per token of each model's own tokenizer."
PUBLISHED: dict[str, tuple[str, ...]] = {
    "flan": (_TOKENS,),
    "gigaword": (
        _TOKENS,
        "microsoft/phi-2 differs from MBZUAI/LaMini-GPT-1.5B by exactly −0.05, 0 and +0.02 at "
        "the last three sizes, which looks edited.",
        "The loss of facebook/bart-base falls by 15 % in one step, from 6,400 to 12,800.",
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


def read(source: str | pd.DataFrame, name: str = "the table") -> LossTable:
    """Read the table of a name in ``PUBLISHED``, of a .csv, .tsv or .parquet file, or a DataFrame.

    Empty cells are left out. Losses without a unit in their name are taken as nats per token; of
    both units bits per byte are chosen, which compare models with different tokenizers. A copy of
    a published table is recognised by its content. An index of a DataFrame that has a name or
    holds texts is read as columns, so the result of ``DataFrame.pivot`` is a wide table.

    Raises DataError, a sentence with the file (or ``name``), row and column, for what is no such
    table.
    """
    published = ""
    if isinstance(source, str):
        name = source
        kind, content = _load(source)
        published = next((known for known in PUBLISHED if _load(known)[1] == content), "")
    try:
        texts = sheet.parse(content, kind) if isinstance(source, str) else sheet.from_frame(source)
        cells, metric, omissions = _cells(texts)
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
    notes = (*PUBLISHED.get(published, ()), *omissions)
    return LossTable(cells, metric, _LIN if published else "", notes)


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
    table = read(source if isinstance(source, pd.DataFrame) else str(source))
    return curves_from_cells(table.cells, table.metric, int(table.cells["size"].max()))


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
    published, kinds = " or ".join(PUBLISHED), f"{', '.join(KINDS[:-1])} or {KINDS[-1]}"
    path = Path(source).expanduser()
    if not source.strip():
        raise DataError(f"no table: name {published}, or a {kinds} file")
    if path.is_dir():
        raise DataError(f"{source}: is a folder: name a {kinds} file")
    if path.is_file():
        if path.suffix.lower() in KINDS:
            return path
        raise DataError(f"{source}: is no {kinds} file: save the table as one of them")
    if path.suffix or len(path.parts) > 1:
        near = [neighbour.name for neighbour in path.parent.glob("*")]
        raise DataError(f"{source}: no such file{suggestion(path.name, [*near, *PUBLISHED])}")
    raise DataError(
        f"{source}: neither a file nor a published table{suggestion(source.lower(), PUBLISHED)}: "
        f"name {published}, or a {kinds} file"
    )


# --- columns ------------------------------------------------------------------------------------
def _recognise(texts: pd.DataFrame) -> tuple[dict[str, int], dict[int, int]]:
    """Positions of columns by meaning, and the training sizes of a wide table's.

    Raises DataError for a table without a header, without candidates or losses, and for a column
    that stands twice.
    """
    titles = list(texts.columns)
    found = {meaning: _position(titles, meaning) for meaning in (*CELL_COLUMNS, "loss")}
    named = {meaning: position for meaning, position in found.items() if position is not None}
    sizes = _sizes(texts, is_header=bool(named))
    if "candidate" not in named:
        named["candidate"] = _first_text(texts, {*named.values(), *sizes})
    if sizes:
        size = named.get("size")
        if size is not None and _plain(titles[size]) == "size":  # weights, as in published tables
            if "parameters" in named:
                both = f"'{titles[size]}' and '{titles[named['parameters']]}'"
                raise DataError(f"columns {both} are both a number of weights: remove one")
            named["parameters"] = size
        return {meaning: named[meaning] for meaning in _OF_ROWS if meaning in named}, sizes
    loss = named.pop("loss", None)
    if loss is not None and not named.keys() & get_args(Metric):
        named["nats_per_token"] = loss  # a mean over tokens, as every training library prints it
    if "size" not in named or not named.keys() & get_args(Metric):
        missing = "loss" if "size" in named else "size"
        raise DataError(
            f"no column '{missing}'{suggestion(missing, titles)}, nor columns named by training "
            f"sizes (0, 200, 400, …); it has {listing(filter(None, titles))}"
        )
    return named, {}


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name.lower())


def _position(titles: list[str], meaning: str) -> int | None:
    """The column with a meaning; None if no column has any of its names."""
    plain = [_plain(title) for title in titles]
    names = [_plain(meaning), *_OTHER_NAMES.get(meaning, "").split()]
    matches = [(i, name) for name in names for i, title in enumerate(plain) if title == name]
    # Which of two could be D is not to be guessed: size may count weights.
    rivals = [i for i, name in matches if name == matches[0][1] or meaning == "size"]
    if len(rivals) > 1:
        both = " and ".join(f"'{titles[i]}'" for i in rivals)
        weights = " ('parameters' if it counts weights)" if meaning == "size" else ""
        raise DataError(f"columns {both} are both a {meaning}: rename one{weights}")
    return rivals[0] if rivals else None


def _sizes(texts: pd.DataFrame, *, is_header: bool) -> dict[int, int]:
    """The training size of every column whose title is a number.

    ``is_header`` says that some title has a known name, so the first line is no row of data.
    """
    titles = [_SIZE_PREFIX.sub("", title) for title in texts.columns]
    numeric = {i: title for i, title in enumerate(titles) if _NUMBER.fullmatch(title)}
    odd = [title for title in numeric.values() if _whole(title) is None]
    # A title that stands in its own column again is a candidate.
    again = any(
        title and i not in numeric and (texts.iloc[:, i] == title).any()
        for i, title in enumerate(titles)
    )
    if numeric and not is_header and (odd or again):
        raise DataError(
            f"the first line looks like data ('{[*odd, *numeric.values()][0]}'): put a header "
            "above it, such as candidate,size,loss,seed"
        )
    sizes: dict[int, int] = {}
    for column, title in numeric.items():
        size = _whole(title)
        if size is None or size < 0:
            raise DataError(
                f"column '{texts.columns[column]}' is no training size: name it by the whole "
                "number of examples, 0 for zero-shot"
            )
        if size in sizes.values():
            raise DataError(
                f"two columns hold the losses at D = {size:,}: keep one, or give repeats rows of "
                "their own with a column seed"
            )
        sizes[column] = size
    if sizes and len(sizes) == len(titles):
        raise DataError(
            "the first line is numbers only: put a header above it, or a column of candidates "
            "beside them"
        )
    return sizes


def _first_text(texts: pd.DataFrame, taken: set[int]) -> int:
    """The first column outside ``taken`` that holds anything but numbers."""
    for column in set(range(texts.shape[1])) - taken:
        if any(not (_is_gap(text) or _NUMBER.fullmatch(text)) for text in texts.iloc[:, column]):
            return column
    raise DataError(
        "no column of candidates: call it 'candidate'; a table with a column per model must be "
        "transposed"
    )


# --- values: each reads a text, or raises ValueError with the end of a sentence -------------------
def _is_gap(text: str) -> bool:
    return text.lower() in _GAPS


def _number(text: str) -> float | None:
    """The number in ``3.5``, ``1,638,400`` or ``1.6384e6``; None where there is none."""
    try:
        return float(text.replace(",", "") if _THOUSANDS.fullmatch(text) else text)
    except ValueError:
        return None


def _whole(text: str) -> int | None:
    """The same where it is a whole number that a float holds exactly; None otherwise."""
    value = _number(text)
    return int(value) if value is not None and value.is_integer() and abs(value) <= _EXACT else None


def _size(text: str) -> int:
    if (value := _whole(text)) is None or value < 0:
        raise ValueError(f"'{short(text)}' is no training size: write a whole number from 0")
    return value


def _seed(text: str) -> int:
    if (value := _whole(text)) is None:
        raise ValueError(f"'{short(text)}' is no seed: write a whole number")
    return value


def _decimal(text: str) -> float:
    """A number; NaN for a gap. A comma separates no thousands here."""
    if _is_gap(text):
        return float("nan")
    try:
        return float(text)
    except ValueError:
        problem = f"'{short(text)}' is no number: correct it, or leave the cell empty"
        if re.fullmatch(r"[+-]?\d+,\d+", text):
            problem = f"'{short(text)}' has a decimal comma: write {text.replace(',', '.')}"
        raise ValueError(problem) from None


def _weights(text: str) -> int | None:
    """The number of weights in 124440576, 1.24e8 or 124M; None for a gap."""
    if _is_gap(text):
        return None
    unit = _UNITS.get(text[-1].lower())
    value = _number(text[:-1] if unit else text)
    if value is None or not 1 <= value * (unit or 1) <= _EXACT:
        raise ValueError(f"'{short(text)}' is no number of weights: write it as 124000000 or 124M")
    return round(value * (unit or 1))


def _name(text: str) -> str:
    if not text:
        raise ValueError("is blank: name the candidate")
    if len(text) > _LONGEST_NAME:
        raise ValueError(
            f"the name has {len(text):,} characters, of at most {_LONGEST_NAME}: cut it"
        )
    return text


# --- cells --------------------------------------------------------------------------------------
def _error(texts: pd.DataFrame, row: int, column: int, problem: str) -> DataError:
    title = texts.columns[column]
    where = f"column '{short(title)}'" if title else "the nameless column"
    return DataError(f"{texts.index[row]}, {where}: {problem}")


def _values(texts: pd.DataFrame, column: int, read: Callable[[str], T]) -> list[T]:
    """N values; raises DataError for the first text that ``read`` refuses."""
    found: list[T] = []
    for row, text in enumerate(texts.iloc[:, column]):
        try:
            found.append(read(text))
        except ValueError as error:
            raise _error(texts, row, column, str(error)) from None
    return found


def _cells(texts: pd.DataFrame) -> tuple[pd.DataFrame, Metric, list[str]]:
    """The cells with a loss, the metric to rank by, and sentences about what was left out."""
    named, sizes = _recognise(texts)
    names = _values(texts, named["candidate"], _name)
    rows = pd.DataFrame(
        {
            "candidate": pd.Categorical(names, categories=list(dict.fromkeys(names))),
            "repeat": _values(texts, named["repeat"], _seed) if "repeat" in named else 0,
            "row": range(len(names)),
        }
    )
    rows = _described(texts, named, rows)
    metric: Metric = "nats_per_token"
    if sizes:
        columns = [
            rows.assign(size=size, column=column, **{metric: _values(texts, column, _decimal)})
            for column, size in sizes.items()
        ]
        cells = pd.concat(columns).sort_values(["row", "column"])
    else:
        numbers = [name for name in _NUMBERS if name in named]
        cells = rows.assign(**{name: _values(texts, named[name], _decimal) for name in numbers})
        cells["size"] = _values(texts, named["size"], _size)
        metrics: list[Metric] = [metric for metric in get_args(Metric) if metric in named]
        metric = next((m for m in metrics if cells[m].notna().any()), metrics[0])
        cells["column"] = named[metric]
    _check_losses(texts, cells, metric)
    key = ["candidate", "size", "repeat"]
    measured = cells.dropna(subset=[metric]).sort_values(key, kind="stable", ignore_index=True)
    _check_cells(texts, measured, texts.columns[named["candidate"]])
    omissions = _omissions(measured, len(cells))
    used = {*named.values(), *sizes}
    if unused := [title for i, title in enumerate(texts.columns) if title and i not in used]:
        omissions.append(f"Columns that were not used: {', '.join(unused)}.")
    found = measured.astype({"candidate": object}).reindex(columns=list(CELL_COLUMNS))
    return found, metric, omissions


def _described(texts: pd.DataFrame, named: Mapping[str, int], rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with family, tokenizer and parameters of their candidates, from any row of each."""
    readers: dict[str, Callable[[str], object]] = {
        **dict.fromkeys(("family", "tokenizer"), lambda text: None if _is_gap(text) else text),
        "parameters": _weights,
    }
    for meaning, read in readers.items():
        if meaning not in named:
            rows[meaning] = pd.NA if meaning == "parameters" else ""
            continue
        column = named[meaning]
        values = pd.Series(_values(texts, column, read), dtype=object)
        rows[meaning] = values.groupby(rows["candidate"], observed=True).transform("first")
        wrong = values.notna() & (values != rows[meaning])
        if wrong.any():
            row = rows[wrong].iloc[0]
            here, above = texts.iloc[row["row"], column], row[meaning]
            problem = f"has '{short(here)}' here and '{short(above)}' above: make them agree"
            raise _error(texts, row["row"], column, f"{row['candidate']} {problem}")
    rows[["family", "tokenizer"]] = rows[["family", "tokenizer"]].fillna("")
    return rows.astype({"parameters": "Int64"})


def _check_losses(texts: pd.DataFrame, cells: pd.DataFrame, metric: Metric) -> None:
    """Raise DataError for the first loss that is not positive or absurd."""
    wrong = cells[(cells[metric] <= 0) | (cells[metric] > _LARGEST_LOSS)]
    if wrong.empty:
        return
    cell = wrong.iloc[0]
    if np.isinf(cell[metric]):
        problem = "infinite: leave the cell of a diverged run empty"
    elif cell[metric] > 0:
        problem = f"{cell[metric]:g}, which no mean loss is: correct it, or leave it empty"
    else:
        problem = f"{cell[metric]:g} and must be positive: correct it, or leave the cell empty"
    where = f"the loss of {cell['candidate']} at D = {cell['size']:,} is "
    raise _error(texts, cell["row"], cell["column"], where + problem)


def _check_cells(texts: pd.DataFrame, cells: pd.DataFrame, title: str) -> None:
    """Raise DataError for sorted cells that stand twice, or that are too few or too many.

    ``title`` is that of the column of candidates.
    """
    twice = cells.duplicated(["candidate", "size", "repeat"])
    if twice.any():
        second = int(twice.argmax())
        cell = cells.iloc[second]
        places = f"{texts.index[cells['row'].iloc[second - 1]]} and in {texts.index[cell['row']]}"
        raise DataError(
            f"{cell['candidate']}, D = {cell['size']:,}, seed {cell['repeat']} stands "
            f"in {places}: remove one, or tell repeats apart in a column seed"
        )
    found = cells["candidate"].unique()
    if len(found) < 2:
        which = f"one candidate only ('{found[0]}')" if len(found) else "no candidate"
        raise DataError(f"it has losses of {which}: give at least two to compare")
    if len(found) > _MOST_CANDIDATES:
        raise DataError(
            f"{len(found):,} candidates in the column '{title}', of at most {_MOST_CANDIDATES:,}: "
            "call the column of models 'candidate', or rank in parts"
        )
    sizes = sorted(set(cells["size"]) - {0})
    if len(sizes) < _FEWEST_SIZES:
        listed = ", ".join(f"{size:,}" for size in sizes) or "none"
        raise DataError(
            f"a curve needs losses at {_FEWEST_SIZES} training sizes above 0 and the "
            f"table has {listed}: add sizes"
        )


def _omissions(cells: pd.DataFrame, count: int) -> list[str]:
    """Sentences about what was left out of ``count`` cells."""
    omissions = []
    if gaps := count - len(cells):
        omissions.append(f"{gaps:,} of {count:,} losses are empty and were left out.")
    present = set(cells["candidate"])
    if absent := [name for name in cells["candidate"].cat.categories if name not in present]:
        omissions.append(f"Left out for having no loss at all: {', '.join(absent)}.")
    if (sizes := cells["size"].nunique()) > MOST_SIZES:
        omissions.append(
            f"Of {sizes:,} training sizes predictors read {MOST_SIZES} up to the budget at most, "
            "evenly spread in log size."
        )
    return omissions
