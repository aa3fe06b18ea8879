"""From a row to an example: a prompt and its completion, running text, or a chat."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from lensllm.config.sections import Data
from lensllm.core.errors import DataError, listing
from lensllm.data import messages, template

Values = Mapping[str, Any]


class Unfit(Exception):
    """A row that is no example, and why; it is left out and counted."""


@dataclass(frozen=True)
class Raw:
    """An example as text, the same for every candidate."""

    prompt: str
    completion: str  # the target: its bytes are the ones that bits per byte are of
    messages: str = ""  # JSON, the turns before the completion; only of a chat
    stratum: str = ""


@dataclass(frozen=True)
class Form:
    """How a table's rows are read."""

    name: str  # completion | text | messages
    columns: frozenset[str]  # needed
    read: Callable[[Values], Raw]  # raises Unfit or DataError


def form_of(data: Data, columns: Collection[str]) -> Form:
    """The form of a table with ``columns``. Raises ``DataError`` for a column that is missing."""
    name = data.form if data.form != "auto" else _guess(data, columns)
    if name == "messages":
        chosen = data.messages
        if chosen == Data().messages:
            chosen = next((c for c in messages.COLUMNS if c in columns), chosen)
        pieces = [template.parse("data.messages", chosen, columns)]
        read = _chat(chosen)
    elif name == "text":
        pieces = [template.parse("data.text", data.text, columns)]
        read = _text(pieces[0])
    else:
        pieces = [
            template.parse("data.prompt", data.prompt, columns),
            template.parse("data.completion", data.completion, columns),
        ]
        read = _pair(*pieces)
    needed = {column for piece in pieces for column in piece.columns}
    if data.stratify is None:
        return Form(name, frozenset(needed), read)
    by = template.parse("data.stratify", data.stratify, columns).columns[0]
    return Form(name, frozenset({*needed, by}), _stratified(read, by))


def _guess(data: Data, columns: Collection[str]) -> str:
    plain = Data()
    chosen = {name for name in ("messages", "text") if getattr(data, name) != getattr(plain, name)}
    if (data.prompt, data.completion) != (plain.prompt, plain.completion):
        chosen.add("completion")
    if len(chosen) == 1:  # who names a column means its form, even with the name mistyped
        return chosen.pop()
    if data.messages in columns or any(name in columns for name in messages.COLUMNS):
        return "messages"
    if {data.prompt, data.completion} <= set(columns):
        return "completion"
    if data.text in columns:
        return "text"
    raise DataError(
        f"no column says what an example is; it has {listing(columns)}; set data.prompt and "
        "data.completion, or data.text, or data.messages to its columns"
    )


def _pair(prompt: template.Template, completion: template.Template) -> Callable[[Values], Raw]:
    def read(values: Values) -> Raw:
        def value(column: str) -> str:
            return text_of(values.get(column), column)

        raw = Raw(prompt.fill(value), completion.fill(value))
        # of a template's columns some may be empty, an optional input for instance
        for side, pieces, text in (
            ("prompt", prompt, raw.prompt),
            ("completion", completion, raw.completion),
        ):
            if not text.strip() or not any(value(c).strip() for c in pieces.columns):
                raise Unfit(f"the {side} is empty")
        return raw

    return read


def _text(column: template.Template) -> Callable[[Values], Raw]:
    def read(values: Values) -> Raw:
        raw = Raw("", column.fill(lambda name: text_of(values.get(name), name)))
        if not raw.completion.strip():
            raise Unfit("the text is empty")
        return raw

    return read


def _chat(column: str) -> Callable[[Values], Raw]:
    def read(values: Values) -> Raw:
        if values.get(column) is None:
            raise Unfit("there are no messages")
        chat = messages.turns(values[column], column)
        if not any(turn["role"] == "assistant" for turn in chat):
            raise Unfit("no message is the assistant's")
        if chat[-1]["role"] != "assistant":
            raise Unfit(f"the last message is the {chat[-1]['role']}'s and not the assistant's")
        if not chat[-1]["content"].strip():
            raise Unfit("the assistant's last message is empty")
        before = json.dumps(chat[:-1], ensure_ascii=False, separators=(",", ":"))
        for turn in chat:
            _check_characters(turn["content"], column)
        return Raw("", chat[-1]["content"], before)

    return read


def _stratified(read: Callable[[Values], Raw], column: str) -> Callable[[Values], Raw]:
    def both(values: Values) -> Raw:
        raw = read(values)
        return Raw(raw.prompt, raw.completion, raw.messages, text_of(values.get(column), column))

    return both


def text_of(value: Any, column: str) -> str:
    """A cell as text: numbers as they are written, nothing as ``""``."""
    if isinstance(value, str):
        _check_characters(value, column)
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise DataError(f"column '{column}' is not UTF-8; write it as UTF-8 text") from None
    kinds: dict[type, str] = {bool: "true or false", list: "a list", dict: "an object"}
    kind = kinds.get(type(value), f"a {type(value).__name__}")
    raise DataError(f"column '{column}' holds {kind}, and not text")


def _check_characters(text: str, column: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"column '{column}' holds half a character ({text[error.start]!a}), which no UTF-8 "
            "text has; write it anew"
        ) from None
