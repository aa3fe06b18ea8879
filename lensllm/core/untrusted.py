"""Read JSON and YAML that somebody else wrote, within limits of size, depth and digits."""

from __future__ import annotations

import json
import reprlib
from pathlib import Path
from typing import Any

import yaml

MOST_LEVELS = 100  # of lists and mappings in each other; config.json files have about five
MOST_DIGITS = 400  # of a whole number; a float holds 309
MOST_VALUES = 100_000  # of a configuration; some hundred are in use
MOST_YAML_BYTES = 2**20  # PyYAML reads about 200 kB a second

_DEEP = f"lists and mappings are nested more than {MOST_LEVELS} deep"
_LONG = f"a whole number has more than {MOST_DIGITS} digits"
_BROKEN = "a text holds half a character or a NUL, which no file name or UTF-8 text has"

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 80


class UnreadableError(ValueError):
    """A text cannot be read; the message is the end of a sentence."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.line = line


def shown(value: Any) -> str:
    """``repr`` of a value in about 80 characters, however long or deep it is."""
    text: str = _repr.repr(value)
    return text


def short(text: Any, most: int = 80) -> str:
    """The text, or its beginning where it has more than ``most`` characters."""
    found = str(text)
    return found if len(found) <= most else found[: most - 1] + "…"


def is_text(text: str) -> bool:
    """True if UTF-8 can write the text and a file can have it as its name."""
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def is_panic(error: BaseException) -> bool:
    """True for the panic of a library written in Rust, which is no ``Exception`` in Python."""
    return type(error).__module__ == "pyo3_runtime"


def parse_json(text: str) -> Any:
    """The JSON value of a text. Raises ``UnreadableError``; NaN and Infinity are floats."""
    try:
        return checked(text, json.loads(text))
    except (RecursionError, ValueError) as error:
        raise UnreadableError(reason(error)) from None


def checked(text: str, value: Any) -> Any:
    """``value``, as it was read from ``text``. Raises ``UnreadableError`` if it is nested deep."""
    if text.count("[") + text.count("{") > MOST_LEVELS and _levels(value) > MOST_LEVELS:
        raise UnreadableError(_DEEP)
    return value


def reason(error: RecursionError | ValueError) -> str:
    """The reason why ``json`` could not read a text."""
    if isinstance(error, RecursionError):
        return _DEEP
    return _LONG if "int_max_str" in str(error) else str(error)  # of int(), or json's own


def read_json(path: Path, most_bytes: int) -> Any:
    """The JSON value of a UTF-8 file. Raises ``UnreadableError`` and ``OSError``."""
    return parse_json(_read(path, most_bytes).decode())


def parse_yaml(text: str) -> Any:
    """Plain values of a YAML text; a key that is written twice is an error.

    Raises ``UnreadableError``, with the line where it is known.
    """
    try:
        content = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error).split("\n", 1)[0]
        raise UnreadableError(reason, mark.line + 1 if mark else None) from None
    _check_values(content)
    return content


def read_yaml(path: Path) -> Any:
    """``parse_yaml`` of a UTF-8 file. Raises ``OSError`` too."""
    return parse_yaml(_read(path, MOST_YAML_BYTES).decode())


def _read(path: Path, most_bytes: int) -> bytes:
    with path.open("rb") as stream:
        content = stream.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise UnreadableError(f"it has more than {most_bytes:,} bytes")
    return content


def _inside(values: list[Any]) -> list[Any]:
    """The values one level below ``values``."""
    below: list[Any] = []
    for value in values:
        if isinstance(value, dict):
            below += value.values()
        elif isinstance(value, list):
            below += value
    return below


def _levels(value: Any) -> int:
    """Depth of lists and mappings in each other, counted up to one more than allowed."""
    level, depth = [value], 0
    while depth <= MOST_LEVELS and any(isinstance(v, list | dict) for v in level):
        level, depth = _inside(level), depth + 1
    return depth


def _check_values(content: Any) -> None:
    """Raise ``UnreadableError`` for what aliases multiply, and for values nothing can use."""
    level, count, depth = [content], 1, 0
    while level:
        for value in level:
            if isinstance(value, int) and abs(value) >= 10**MOST_DIGITS:
                raise UnreadableError(_LONG)
            texts = [value] if isinstance(value, str) else value if isinstance(value, dict) else ()
            if not all(is_text(text) for text in texts if isinstance(text, str)):
                raise UnreadableError(_BROKEN)
        level = _inside(level)
        count, depth = count + len(level), depth + 1
        if count > MOST_VALUES:
            raise UnreadableError(f"its aliases (*name) make more than {MOST_VALUES:,} values")
        if depth > MOST_LEVELS:
            raise UnreadableError(_DEEP)


class _Loader(yaml.SafeLoader):
    """Safe YAML that counts levels and values, and refuses a key written twice."""

    depth = count = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth, self.count = self.depth + 1, self.count + 1
        if self.depth > MOST_LEVELS:
            raise UnreadableError(_DEEP, self.line + 1)
        if self.count > MOST_VALUES:
            raise UnreadableError(f"it holds more than {MOST_VALUES:,} values", self.line + 1)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:  # a month 13, 5,001 digits, a list as a key: each its own
            kind = node.tag.rpartition(":")[2]
            what = repr(short(node.value, 40)) if isinstance(node, yaml.ScalarNode) else "a value"
            raise yaml.constructor.ConstructorError(
                None, None, f"{what} cannot be read as {kind}", node.start_mark
            ) from error


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    """Keys and values of a mapping; YAML would silently let the last of equal keys win."""
    found: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in found:
            raise yaml.constructor.ConstructorError(
                None, None, f"key '{short(key)}' is written twice", key_node.start_mark
            )
        found[key] = loader.construct_object(value_node, deep=True)
    return found


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
