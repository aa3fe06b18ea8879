"""Templates over columns: ``"Question: {question}\\nAnswer:"``.

What stands between braces is a column's name and nothing else: no attributes, no formats, so a
template can read the row's columns and no more. ``{{`` and ``}}`` are braces.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from lensllm.core.errors import DataError, listing, suggestion

_PIECES = re.compile(r"\{\{|\}\}|\{[^{}]*\}|[{}]")


@dataclass(frozen=True)
class Template:
    """Pieces of text and names of columns, in turn; text first and last."""

    pieces: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        return self.pieces[1::2]

    def fill(self, value: Callable[[str], str]) -> str:
        """The text with every column's value in its place."""
        return "".join(value(p) if i % 2 else p for i, p in enumerate(self.pieces))


def parse(key: str, written: str, known: Collection[str]) -> Template:
    """The template that is ``written`` under ``key``, or a single column's name.

    Raises ``DataError`` for a brace alone and for a column that is not ``known``.
    """
    if written in known or not re.search("[{}]", written):
        return Template(("", _column(key, written, known), ""))
    pieces, text, end = list[str](), "", 0
    for found in _PIECES.finditer(written):
        text += written[end : found.start()]
        end, piece = found.end(), found.group()
        if piece in ("{", "}"):
            raise DataError(
                f"{key}: the template {written!r} has a {piece!r} alone; a column is written "
                "{name}, and a brace itself {{ or }}"
            )
        if piece in ("{{", "}}"):
            text += piece[0]
        else:
            pieces += [text, _column(key, piece[1:-1], known)]
            text = ""
    pieces.append(text + written[end:])
    if len(pieces) == 1:
        raise DataError(f"{key}: the template {written!r} names no column, such as {{question}}")
    return Template(tuple(pieces))


def _column(key: str, name: str, known: Collection[str]) -> str:
    if name not in known:
        raise DataError(
            f"no column '{name}'{suggestion(name, known)}; it has {listing(known)}; set {key}"
        )
    return name
