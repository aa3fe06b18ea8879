"""Which column of a table of losses is what, by its name, and the values that are no losses."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from lensllm.core.errors import DataError, listing, suggestion
from lensllm.core.untrusted import short
from lensllm.curves.curve import Metric
from lensllm.curves.loss_sheet import GAPS, Integers, Sheet

# Names as people write them, without case, spaces, hyphens and underscores; the first that a
# table has is taken.
_NAMES: Mapping[str, tuple[str, ...]] = {
    "candidate": (
        *("candidate", "configname", "config", "modelname", "modelid", "model", "name"),
        *("checkpoint", "llm"),
    ),
    "size": (
        *("size", "d", "n", "examples", "numexamples", "nexamples", "samples", "numsamples"),
        *("nsamples", "trainsize", "trainingsize", "trainexamples", "trainingexamples"),
        *("ntrain", "numtrain", "datasize", "datasetsize", "subsetsize"),
    ),
    "seed": ("seed", "randomseed"),
    "parameters": (
        *("parameters", "numparameters", "nparameters", "params", "numparams", "nparams"),
        *("weights", "modelsize"),
    ),
    "family": ("family", "modelfamily"),
    "tokenizer": ("tokenizer",),
    "bits_per_byte": ("bitsperbyte", "bpb"),
    "nats_per_token": ("natspertoken",),
    "loss": ("loss", "testloss", "heldoutloss", "evalloss", "validationloss", "valloss"),
}
# Further columns of curve/cells, which a table that lensllm wrote has.
MEASURED = (
    *("train_nats_per_token", "validation_nats_per_token", "learning_rate_integral"),
    *("train_flops", "evaluation_flops"),
)
T = TypeVar("T")
_UNITS = {"k": 1e3, "m": 1e6, "b": 1e9}
_EXACT = 2**53  # up to here a float holds every whole number
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.0*)?")
_NUMBER = re.compile(r"[+-]?(?:\d[\d,]*\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.IGNORECASE)
_SIZE_PREFIX = re.compile(r"^[dn]\s*[=_]?\s*(?=[\d+-])", re.IGNORECASE)  # D=200


@dataclass(frozen=True)
class Columns:
    """Indices of a sheet's columns: ``sizes`` in the wide form, size and loss in the long one."""

    roles: Mapping[str, int]  # names of _NAMES but the losses', and of MEASURED
    sizes: Mapping[int, int]  # column -> D; empty in the long form
    losses: Mapping[Metric, int]  # the long form's
    unused: tuple[str, ...]  # names of the others


def recognise(sheet: Sheet) -> Columns:
    """Columns by their names.

    Raises DataError for a file without a header, without candidates or losses, and for a column
    that stands twice.
    """
    found = {role: _column(sheet, role, names) for role, names in _NAMES.items()}
    found |= {name: _column(sheet, name, (_plain(name),)) for name in MEASURED}
    roles = {role: column for role, column in found.items() if column is not None}
    numeric = {i: _SIZE_PREFIX.sub("", t) for i, t in enumerate(sheet.header)}
    numeric = {i: text for i, text in numeric.items() if _NUMBER.fullmatch(text)}
    sizes = _sizes(sheet, numeric, named=bool(roles))
    if sizes:
        _weights_are_size(sheet, roles)
    if "candidate" not in roles:
        roles["candidate"] = _first_text(sheet, {*roles.values(), *sizes})
    losses = {} if sizes else _losses(sheet, roles)
    used = {*roles.values(), *sizes, *losses.values()}
    unused = tuple(t for i, t in enumerate(sheet.header) if t and i not in used)
    return Columns(roles, sizes, losses, unused)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name.lower())


def _column(sheet: Sheet, role: str, names: tuple[str, ...]) -> int | None:
    """The column of a role; None if no column has any of its names."""
    plain = [_plain(title) for title in sheet.header]
    matches = [(i, name) for name in names for i, title in enumerate(plain) if title == name]
    if not matches:
        return None
    first, name = matches[0]
    # Which of two could be D is not to be guessed: size may count weights.
    rivals = [i for i, other in matches if other == name or role == "size"]
    if len(rivals) > 1:
        titles = " and ".join(f"'{sheet.header[i]}'" for i in rivals)
        raise DataError(
            f"{sheet.name}: columns {titles} are both a {role}: rename one"
            + (" ('parameters' if it counts weights)" if role == "size" else "")
        )
    return first


def _sizes(sheet: Sheet, numeric: Mapping[int, str], *, named: bool) -> dict[int, int]:
    """Column -> D of the columns whose name is a number."""
    sizes: dict[int, int] = {}
    whole = {column: _whole(text) for column, text in numeric.items()}
    if not named and numeric and (None in whole.values() or _recurs(sheet, numeric)):
        text = next(
            (t for i, t in numeric.items() if whole[i] is None), next(iter(numeric.values()))
        )
        raise DataError(
            f"{sheet.name}: the first line looks like data ('{text}'): put a header above it, such "
            "as candidate,size,loss,seed"
        )
    for column, size in whole.items():
        if size is None or size < 0:
            raise DataError(
                f"{sheet.name}: column '{sheet.header[column]}' is no training size: name it by "
                "the whole number of examples, 0 for zero-shot"
            )
        if size in sizes.values():
            raise DataError(
                f"{sheet.name}: two columns hold the losses at D = {size:,}: keep one, or give "
                "repeats rows of their own with a column seed"
            )
        sizes[column] = size
    if numeric and len(numeric) == len(sheet.header):
        raise DataError(
            f"{sheet.name}: the first line is numbers only: put a header above it, or a column "
            "of candidates beside them"
        )
    return sizes


def _recurs(sheet: Sheet, numeric: Mapping[int, str]) -> bool:
    """Whether a title that is no number stands in its own column again, as a candidate's does."""
    others = (i for i, title in enumerate(sheet.header) if title and i not in numeric)
    return any(sheet.header[i] in sheet.levels(i)[1] for i in others)


def _weights_are_size(sheet: Sheet, roles: dict[str, int]) -> None:
    """Where sizes are columns, a column ``size`` counts weights, as in the published tables."""
    size = roles.pop("size", None)
    if size is None or _plain(sheet.header[size]) != "size":
        return
    if "parameters" in roles:
        raise DataError(
            f"{sheet.name}: columns '{sheet.header[size]}' and "
            f"'{sheet.header[roles['parameters']]}' are both a number of weights: remove one"
        )
    roles["parameters"] = size


def _first_text(sheet: Sheet, taken: set[int]) -> int:
    """The first column outside ``taken`` that holds anything but numbers."""
    for column in range(len(sheet.header)):
        texts = () if column in taken else sheet.levels(column)[1]
        if any(t.lower() not in GAPS and not _NUMBER.fullmatch(t) for t in texts):
            return column
    raise DataError(
        f"{sheet.name}: no column of candidates: call it 'candidate'; "
        "a table with a column per model must be transposed"
    )


def _losses(sheet: Sheet, roles: dict[str, int]) -> dict[Metric, int]:
    """The long form's columns of losses, taken out of ``roles``; the one to rank by first.

    A plain loss is a mean over tokens, as every training library prints it.
    """
    found: dict[Metric, int] = {}
    plain = roles.pop("loss", None)
    if "bits_per_byte" in roles:
        found["bits_per_byte"] = roles.pop("bits_per_byte")
    if "nats_per_token" in roles:
        found["nats_per_token"] = roles.pop("nats_per_token")
    if not found and plain is not None:
        found["nats_per_token"] = plain
    if found and "size" in roles:
        return found
    missing = "loss" if "size" in roles else "size"
    raise DataError(
        f"{sheet.name}: no column '{missing}'{suggestion(missing, sheet.header)}, nor columns "
        f"named by training sizes (0, 200, 400, …); it has {listing(filter(None, sheet.header))}"
    )


# --- values ---------------------------------------------------------------------------------------


def wholes(sheet: Sheet, column: int, what: str, least: float) -> Integers:
    """(N,) whole numbers of a column that has no gaps."""
    codes, texts = sheet.levels(column)
    values = [_whole(text) for text in texts]
    for code, value in enumerate(values):
        if value is None or value < least:
            wanted = "a whole number" + (f" from {least:g}" if np.isfinite(least) else "")
            problem = f"'{short(texts[code])}' is no {what}: write {wanted}"
            raise sheet.error(int(np.argmax(codes == code)), column, problem)
    return np.array(values, dtype=np.int64)[codes]


def per_candidate(
    sheet: Sheet,
    columns: Columns,
    role: str,
    candidates: Integers,
    names: Sequence[str],
    convert: Callable[[str], T | None],
) -> dict[str, T]:
    """Name -> value of those candidates that have one; every row of a candidate must agree."""
    if role not in columns.roles:
        return {}
    column = columns.roles[role]
    codes, texts = sheet.levels(column)
    _, rows = np.unique(candidates * len(texts) + codes, return_index=True)
    found: dict[str, T] = {}
    for row in sorted(rows):
        name, text = names[candidates[row]], texts[codes[row]]
        if text.lower() in GAPS:
            continue
        value = convert(text)
        if value is None:
            problem = f"'{short(text)}' is no number of weights: write it as 124000000 or 124M"
            raise sheet.error(int(row), column, problem)
        if found.setdefault(name, value) != value:
            problem = (
                f"{name} has '{short(text)}' here and '{short(found[name])}' above: make them agree"
            )
            raise sheet.error(int(row), column, problem)
    return found


def weights(text: str) -> int | None:
    """The number of weights in 124440576, 1.24e8 or 124M; None where there is none."""
    unit = _UNITS.get(text[-1].lower())
    value = _number(text[:-1] if unit else text)
    if value is None or not 1 <= value * (unit or 1) <= _EXACT:
        return None
    return round(value * (unit or 1))


def _number(text: str) -> float | None:
    """The number in ``3.5``, ``1,638,400`` or ``1.6384e6``; None where there is none."""
    try:
        return float(text.replace(",", "") if _THOUSANDS.fullmatch(text) else text)
    except ValueError:
        return None


def _whole(text: str) -> int | None:
    """The same if it is a whole number; None otherwise."""
    value = _number(text)
    if value is None or not value.is_integer() or abs(value) > _EXACT:
        return None
    return int(value)
