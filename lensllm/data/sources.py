"""Examples from an embedded task, files of the user's, or a hub data set.

One pass over all rows keeps at most ``data.keep`` distinct examples of each set and counts the
rest. Test and validation sets are read first, to leave their examples out of training.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from lensllm.config.sections import Data
from lensllm.core.errors import DataError
from lensllm.data import forms, hub, readers
from lensllm.data.builtin import docstrings, names, python_files
from lensllm.data.readers import Table
from lensllm.data.sketch import Sketch, digest

BUILTIN = {"builtin:docstrings": docstrings.pairs, "builtin:names": names.pairs}
_COLUMNS = ["prompt", "completion", "messages", "stratum", "split", "file", "number"]
_MOST_FILES = 100_000  # each is opened twice
_EXCERPT = 60  # characters of a row that a sentence shows
_BESIDE = ("readme", "license", "licence")  # files that lie beside data and are none


@dataclass(frozen=True)
class Set:
    split: str  # of its examples; "" where the test set is still to be drawn
    key: str  # of the setting that names it
    source: str
    hub_split: str


@dataclass(frozen=True)
class Loaded:
    """Examples and what became of the rows they were read from."""

    examples: pd.DataFrame  # dataset/examples
    summary: pd.DataFrame  # dataset/summary


def fingerprint(data: Data) -> dict[str, Any]:
    """Package versions, or checksums of files, which determine the examples.

    Raises ``DataError`` when a file or package is missing or its kind is unknown.
    """
    if data.source.startswith("builtin:"):
        _check_builtin(data)
        return {"source": data.source, "packages": python_files.fingerprint(data.packages)}
    sets: dict[str, Any] = {}
    for one in _sets(data):
        if _by_library(one):
            sets[one.split] = hub.identity(one.source, data.config, one.hub_split, data.revision)
        else:
            sets[one.split] = [[readers.kind(p), readers.checksum(p)] for p in _files(one)]
    settings = ("form", "prompt", "completion", "text", "messages", "stratify", "keep")
    return {"sets": sets, **{name: getattr(data, name) for name in settings}}


def check(data: Data) -> None:
    """Raise ``DataError`` for what the first rows of files show, before all are read."""
    if data.source.startswith("builtin:"):
        _check_builtin(data)
        return
    for one in _sets(data):
        if not _by_library(one):
            _open(one, data)


def load(data: Data) -> Loaded:
    """Read all examples. Of equal ones the first is kept, so that none stands on both sides.

    ``split`` is empty where the test set is still to be drawn.
    """
    if data.source in BUILTIN:
        return _builtin(BUILTIN[data.source](data.packages))
    counts, sketches = list[_Count](), list[Sketch[_Item]]()
    for one in _sets(data):
        count, sketch = _Count(one.split), Sketch[_Item](data.keep)
        for table, form in _open(one, data):
            count.form = form.name
            _read(table, form, count, sketch, sketches)
        if counts and count.form != counts[0].form:
            raise DataError(
                f"{one.key}: {one.source} holds examples of the form {count.form}, and "
                f"{_sets(data)[0].source} of the form {counts[0].form}; give both the same columns"
            )
        if not sketch.rows:
            why = count.unfit_reason if count.unfit else "all are in the test or validation set"
            raise DataError(f"{one.key}: {one.source} has no example to use: {why} "
                            f"({count.unfit_place or count.shared_place})")  # fmt: skip
        counts.insert(0, count)
        sketches.insert(0, sketch)
    read = list(zip(counts, sketches, strict=True))
    rows = [
        (raw.prompt, raw.completion, raw.messages, raw.stratum, count.split, file, number)
        for count, sketch in read
        for raw, file, number in sketch.items
    ]
    summary = pd.DataFrame([count.summary(sketch) for count, sketch in read])
    return Loaded(pd.DataFrame(rows, columns=_COLUMNS), summary)


def _open(one: Set, data: Data) -> list[tuple[Table, forms.Form]]:
    """Every table of a set with its form, the same for all. Raises ``DataError``."""
    if _by_library(one):
        limits = data.revision, data.max_row_bytes
        tables = [hub.open_table(one.source, data.config, one.hub_split, *limits)]
    else:
        tables = [readers.open_table(path, data.max_row_bytes) for path in _files(one)]
    found = []
    for table in tables:
        try:
            form = forms.form_of(data, table.columns)
        except DataError as error:
            raise DataError(f"{table.where}: {error}") from None
        found.append((table, form))
    if len(kinds := {form.name: table.where for table, form in found}) > 1:
        shown = ", ".join(f"{where} as {name}" for name, where in kinds.items())
        raise DataError(f"data.source: its files are of different forms, {shown}; set data.form")
    return found


def excerpt(text: str) -> str:
    """The beginning of a text on one line."""
    line = " ".join(text.split())
    return line if len(line) <= _EXCERPT else line[: _EXCERPT - 1] + "…"


# --- reading -------------------------------------------------------------------------------------
_Item = tuple[forms.Raw, str, int]  # example, file, number


@dataclass
class _Count:
    """The rows of a set: kept in the sketch, unfit, or shared with an earlier set."""

    split: str
    form: str = ""
    unfit: int = 0
    unfit_place: str = ""  # of the first
    unfit_reason: str = ""
    shared: int = 0
    shared_place: str = ""

    def summary(self, sketch: Sketch[_Item]) -> dict[str, Any]:
        rows = sketch.rows + self.unfit + self.shared
        kept = len(sketch.items)
        return {**vars(self), "rows": rows, "distinct": sketch.distinct, "kept": kept}


def _read(
    table: Table,
    form: forms.Form,
    count: _Count,
    sketch: Sketch[_Item],
    earlier: Sequence[Sketch[_Item]],
) -> None:
    for number, values in table.rows(form.columns):
        try:
            raw = form.read(values)
        except forms.Unfit as why:
            if not count.unfit:
                count.unfit_place = readers.place(table.name, number)
                count.unfit_reason = str(why)
            count.unfit += 1
            continue
        except DataError as error:
            where = readers.place(table.where, number)
            raise DataError(f"{where}: {error}") from None
        content = digest(raw.prompt, raw.messages, raw.completion)
        if any(content in other for other in earlier):
            shown = f"{readers.place(table.name, number)}, “{excerpt(raw.completion)}”"
            count.shared_place = count.shared_place or shown
            count.shared += 1
            continue
        sketch.add(content, (raw, table.name, number))


def _builtin(pairs: pd.DataFrame) -> Loaded:
    given = pairs.assign(messages="", stratum="", file="", number=range(1, len(pairs) + 1))
    counts = [
        {"split": split, "rows": n, "distinct": n, "kept": n, "unfit": 0, "shared": 0}
        for split, n in pairs["split"].value_counts(sort=False).items()
    ]
    texts = {"form": "completion", "unfit_place": "", "unfit_reason": "", "shared_place": ""}
    return Loaded(given[_COLUMNS], pd.DataFrame(counts).assign(**texts))


# --- what is read --------------------------------------------------------------------------------
def _check_builtin(data: Data) -> None:
    if data.source not in BUILTIN:
        raise DataError(f"data.source: no '{data.source}'; there are {', '.join(BUILTIN)}")
    for name in ("test_source", "test_split", "validation_source", "validation_split", "stratify"):
        if getattr(data, name):
            raise DataError(f"data.{name}: {data.source} knows no such thing; leave it out")


def _sets(data: Data) -> list[Set]:
    """The sets of ``data``, those held out before the training set."""
    found = []
    for role in ("test", "validation"):
        source, split = getattr(data, f"{role}_source"), getattr(data, f"{role}_split")
        if source:
            found.append(Set(role, f"data.{role}_source", source, role))
        elif split:
            if not hub.is_hub(data.source):
                raise DataError(
                    f"data.{role}_split: only data sets of the hub have splits by name, and "
                    f"{data.source} is none; set data.{role}_source to the file of the {role} set"
                )
            found.append(Set(role, f"data.{role}_split", data.source, split))
    rest = "train" if any(one.split == "test" for one in found) else ""
    return [*found, Set(rest, "data.source", data.source, data.split)]


def _by_library(one: Set) -> bool:
    """True for what the datasets library reads: the hub's, or written by ``save_to_disk``."""
    saved = ("dataset_dict.json", "state.json")
    folder = Path(one.source).expanduser()
    return hub.is_hub(one.source) or any((folder / name).is_file() for name in saved)


def _files(one: Set) -> list[Path]:
    """The files that a source names, all of one kind, in the order of their names."""
    path, allowed = Path(one.source).expanduser(), ", ".join(readers.KINDS)
    if path.is_file():
        found = [path]
    elif path.is_dir():
        inside = (p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        known = (p for p in inside if readers.kind(p) in readers.KINDS)
        found = _sorted((p for p in known if p.stem.lower() not in _BESIDE), one)
        if not found:
            raise DataError(f"{one.key}: no file in {path} is one of {allowed}")
    elif set(str(path)) & set("*?["):
        pattern = str(path.relative_to(path.anchor))
        found = _sorted((p for p in Path(path.anchor).glob(pattern) if p.is_file()), one)
    else:
        found = []
    if others := [p for p in found or [path] if readers.kind(p) not in readers.KINDS]:
        raise DataError(f"{one.key}: {others[0]} is none of {allowed}")
    if not found:
        raise DataError(f"{one.key}: no such file: {path}")
    kinds = {"text" if readers.kind(p) in readers.TEXT else readers.kind(p) for p in found}
    if len(kinds) > 1:
        raise DataError(
            f"{one.key}: {path} has files of several kinds ({', '.join(sorted(kinds))}); name "
            f"those meant by a pattern, such as {path if path.is_dir() else path.parent}/*.jsonl"
        )
    return found


def _sorted(paths: Iterable[Path], one: Set) -> list[Path]:
    found = sorted(islice(paths, _MOST_FILES + 1))
    if len(found) > _MOST_FILES:
        raise DataError(
            f"{one.key}: {one.source} has more than {_MOST_FILES:,} files; join them, or name fewer"
        )
    return found
