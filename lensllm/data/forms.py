"""From a row to an example: a prompt and its completion, running text, or a chat."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from lensllm.config.sections import Data
from lensllm.core.errors import DataError, listing, suggestion
from lensllm.core.untrusted import UnreadableError, parse_json, short, shown

Values = Mapping[str, Any]
Turn = dict[str, str]  # role: system, user, assistant or tool; content

_CHAT_COLUMNS = ("messages", "conversations", "conversation")  # as data sets call them
_ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model"), "assistant"),
    **dict.fromkeys(("tool", "function"), "tool"),
}
_PIECES = re.compile(r"\{\{|\}\}|\{[^{}]*\}|[{}]")  # of a template


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
    """The reading of a table's rows."""

    name: str  # completion | text | messages
    columns: frozenset[str]  # needed
    read: Callable[[Values], Raw]  # raises Unfit or DataError


def form_of(data: Data, columns: Collection[str]) -> Form:
    """The form of a table with ``columns``. Raises ``DataError`` for a column that is missing."""
    name = data.form if data.form != "auto" else _guess(data, columns)
    read: Callable[[Values], Raw]
    if name == "messages":
        chosen = data.messages
        if chosen == Data().messages:
            chosen = next((c for c in _CHAT_COLUMNS if c in columns), chosen)
        templates = [_template("data.messages", chosen, columns)]
        read = partial(_chat, chosen)
    elif name == "text":
        templates = [_template("data.text", data.text, columns)]
        read = partial(_text, templates[0])
    else:
        keys = ("prompt", "completion")
        templates = [_template(f"data.{key}", getattr(data, key), columns) for key in keys]
        read = partial(_pair, templates[0], templates[1])
    if data.stratify is not None:
        templates.append(_template("data.stratify", data.stratify, columns))
        read = partial(_stratified, read, templates[-1])
    return Form(name, frozenset(c for template in templates for c in template[1::2]), read)


def _guess(data: Data, columns: Collection[str]) -> str:
    plain = Data()
    chosen = {name for name in ("messages", "text") if getattr(data, name) != getattr(plain, name)}
    if (data.prompt, data.completion) != (plain.prompt, plain.completion):
        chosen.add("completion")
    if len(chosen) == 1:  # who names a column means its form, even with the name mistyped
        return chosen.pop()
    if any(name in columns for name in (data.messages, *_CHAT_COLUMNS)):
        return "messages"
    if {data.prompt, data.completion} <= set(columns):
        return "completion"
    if data.text in columns:
        return "text"
    raise DataError(
        f"no column says what an example is; it has {listing(columns)}; set data.prompt and "
        "data.completion, or data.text, or data.messages to its columns"
    )


# --- templates: "Question: {question}\nAnswer:" ---------------------------------------------------
# Pieces of text and names of columns, in turn; text first and last. Braces hold a column's name and
# nothing else, no attributes and no formats, so that a template reads no more than the row.
_Template = tuple[str, ...]


def _template(key: str, written: str, known: Collection[str]) -> _Template:
    """The template that is ``written`` under ``key``, or a single column's name.

    Raises ``DataError`` for a brace alone and for a column that is not ``known``.
    """
    if written in known or not re.search("[{}]", written):
        return "", _column(key, written, known), ""
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
    if not pieces:
        raise DataError(f"{key}: the template {written!r} names no column, such as {{question}}")
    return (*pieces, text + written[end:])


def _column(key: str, name: str, known: Collection[str]) -> str:
    if name not in known:
        raise DataError(
            f"no column '{name}'{suggestion(name, known)}; it has {listing(known)}; set {key}"
        )
    return name


def _filled(template: _Template, values: Values) -> str:
    return "".join(_cell(values, p) if i % 2 else p for i, p in enumerate(template))


# --- readers of a row ---------------------------------------------------------------------------
def _pair(prompt: _Template, completion: _Template, values: Values) -> Raw:
    texts = []
    for side, template in (("prompt", prompt), ("completion", completion)):
        texts.append(_filled(template, values))
        # Some of a template's columns may be empty, an optional input for instance.
        columns = template[1::2]
        if not texts[-1].strip() or not any(_cell(values, column).strip() for column in columns):
            raise Unfit(f"the {side} is empty")
    return Raw(*texts)


def _text(template: _Template, values: Values) -> Raw:
    text = _filled(template, values)
    if not text.strip():
        raise Unfit("the text is empty")
    return Raw("", text)


def _chat(column: str, values: Values) -> Raw:
    if values.get(column) is None:
        raise Unfit("there are no messages")
    chat = _turns(values[column], column)
    if not any(turn["role"] == "assistant" for turn in chat):
        raise Unfit("no message is the assistant's")
    if chat[-1]["role"] != "assistant":
        raise Unfit(f"the last message is the {chat[-1]['role']}'s and not the assistant's")
    if not chat[-1]["content"].strip():
        raise Unfit("the assistant's last message is empty")
    for turn in chat:
        _check_characters(turn["content"], column)
    before = json.dumps(chat[:-1], ensure_ascii=False, separators=(",", ":"))
    return Raw("", chat[-1]["content"], before)


def _stratified(read: Callable[[Values], Raw], template: _Template, values: Values) -> Raw:
    return replace(read(values), stratum=_cell(values, template[1]))


def _cell(values: Values, column: str) -> str:
    """A cell as text: numbers as they are written, nothing as ``""``."""
    value = values.get(column)
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


# --- chats: OpenAI's role and content, ShareGPT's from and value ----------------------------------
def _turns(value: Any, column: str) -> list[Turn]:
    """The turns of a chat, those of a JSON text too. Raises ``DataError`` when it is none."""
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except UnreadableError:
            value = None
    if not isinstance(value, list):
        raise DataError(f"column '{column}' holds no list of messages")
    return [_turn(entry, f"message {i} of column '{column}'") for i, entry in enumerate(value, 1)]


def _turn(entry: Any, where: str) -> Turn:
    if not isinstance(entry, dict):
        raise DataError(f"{where} is {shown(entry)}, and not a role with its content")
    role = entry.get("role", entry.get("from"))
    if role is None or ("content" not in entry and "value" not in entry):
        raise DataError(
            f"{where} has {listing(entry) or 'nothing'}; "
            "a message has role and content, or from and value"
        )
    known = _ROLES.get(short(role).lower())
    if known is None:
        raise DataError(
            f"{where} has the role '{short(role)}'{suggestion(short(role), _ROLES)}; "
            "roles are system, user, assistant and tool"
        )
    return {"role": known, "content": _content(entry.get("content", entry.get("value")), where)}


def _content(content: Any, where: str) -> str:
    """Text, or OpenAI's list of parts, all of them text; nothing of a call of a tool alone."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise DataError(f"{where} has the content {shown(content)}, which is not text")
    for part in content:
        if not (isinstance(part, dict) and isinstance(part.get("text"), str)):
            kind = part.get("type", "something else") if isinstance(part, dict) else part
            raise DataError(
                f"{where} has a part that is not text ({short(kind)}); only text is read"
            )
    return "".join(part["text"] for part in content)
