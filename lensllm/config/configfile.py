"""Read pipelines.yaml: defaults, pipelines on top of them, and ``--set`` on top of both."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from lensllm.config.sections import (
    Candidate,
    FineTune,
    Pipeline,
    Replay,
    name_of,
    place,
    wrong_name,
)
from lensllm.core import untrusted
from lensllm.core.errors import ConfigError, listing, suggestion
from lensllm.core.secrets import has_password
from lensllm.core.untrusted import short, shown

_MOST_PATHS = 10_000  # /*/*/* would look through the whole disk
_MOST_PARTS = 20  # of a key's path; the longest has three


def load(path: Path, name: str, overrides: Sequence[str] = ()) -> Pipeline:
    """Pipeline ``name`` of the file at ``path`` with ``KEY.PATH=VALUE`` overrides.

    Raises ``ConfigError`` naming file, key path, what is allowed and the nearest right spelling.
    """
    content = _read(path)
    pipelines = content.get("pipelines") or {}
    if name not in pipelines:
        hint = suggestion(name, pipelines)
        known = listing(pipelines) or "none"
        raise ConfigError(f"{path}: no pipeline '{short(name)}'{hint}; it has {known}")
    merged = _merge(content.get("defaults") or {}, pipelines[name] or {})
    return from_settings(merged, f"{path}: pipeline '{name}'", overrides)


def from_settings(
    settings: Mapping[str, Any], where: str, overrides: Sequence[str] = ()
) -> Pipeline:
    """Pipeline of plain settings, as a file has them, with ``KEY.PATH=VALUE`` overrides.

    Raises ``ConfigError`` as ``load`` does, with ``where`` in the place of the file's name.
    """
    merged = dict(settings)
    for override in overrides:
        merged = _override(merged, override)
    try:
        return Pipeline.model_validate(expand(merged))
    except ValidationError as error:
        raise ConfigError(f"{where}: {_sentence(error)}") from None
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def replay(options: dict[str, Any]) -> Replay:
    """A replay from command-line options. Raises ``ConfigError`` naming the one that is wrong."""
    try:
        return Replay.model_validate(options)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "value_error":
            raise ConfigError(str(first["ctx"]["error"])) from None
        option = str(first["loc"][-1]).replace("_", "-")
        message = first["msg"][0].lower() + first["msg"][1:]
        raise ConfigError(f"--{option}: {message}, not {shown(first['input'])}") from None


def names(path: Path) -> dict[str, str]:
    """The file's pipelines and their descriptions."""
    return {
        n: (p or {}).get("description", "") for n, p in (_read(path).get("pipelines") or {}).items()
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        content = untrusted.read_yaml(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; name one with --file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:  # of untrusted.UnreadableError and UnicodeDecodeError
        line = getattr(error, "line", None)
        raise ConfigError(f"{path}{f', line {line}' if line else ''}: {error}") from None
    allowed = ("defaults", "pipelines")
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected the keys {' and '.join(allowed)} at the top")
    if unknown := [key for key in content if key not in allowed]:
        hint = suggestion(str(unknown[0]), allowed)
        raise ConfigError(
            f"{path}: unknown key '{short(unknown[0])}'{hint}; allowed: {', '.join(allowed)}"
        )
    if not all(section is None or isinstance(section, dict) for section in content.values()):
        raise ConfigError(f"{path}: defaults and pipelines must be mappings")
    for name, pipeline in (content.get("pipelines") or {}).items():
        if pipeline is not None and not isinstance(pipeline, dict):
            raise ConfigError(f"{path}: pipeline '{short(name)}' must be a mapping of sections")
        if wrong := wrong_name(str(name), spaces=True):
            raise ConfigError(
                f"{path}: pipeline {short(name)!r}: {wrong}; a folder is called by it"
            )
    return content


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``over`` on top of ``base``, section by section; lists are replaced whole."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = (
            _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
        )
    return merged


def _override(content: dict[str, Any], text: str) -> dict[str, Any]:
    path, equals, value = text.partition("=")
    if has_password(value):  # which this sentence must not repeat
        raise ConfigError(
            f"--set {short(path)}: a password on the command line is seen by everyone on the "
            "machine and kept in Prefect's records; write it into the configuration file"
        )
    if not equals or not path:
        raise ConfigError(
            f"--set {short(text)}: write it as KEY.PATH=VALUE, e.g. --set sweep.max=3200"
        )
    try:
        nested: Any = untrusted.parse_yaml(value)
    except untrusted.UnreadableError as error:
        raise ConfigError(f"--set {short(text)}: the value is not YAML ({error})") from None
    parts = path.strip().split(".")
    if len(parts) > _MOST_PARTS or not untrusted.is_text(path):
        raise ConfigError(
            f"--set {short(ascii(path)[1:-1])}: there is no such key; write KEY.PATH=VALUE"
        )
    for key in reversed(parts):
        nested = {key: nested}
    return _merge(content, nested)


def _sentence(error: ValidationError) -> str:
    # A misspelt key comes first: it is also why another one is missing.
    found = sorted(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
    first = found[0]
    where = short(".".join(str(part) for part in first["loc"]))
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        allowed = _keys_at(first["loc"][:-1])
        hint = suggestion(str(first["loc"][-1]), allowed)
        return f"unknown key '{where}'{hint}; allowed: {', '.join(allowed)}{more}"
    if first["type"] == "value_error":
        return f"{where + ': ' if where else ''}{short(first['ctx']['error'], 400)}{more}"
    if first["type"] == "missing":
        return f"'{where}' is missing{more}"
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"'{where}': {message}, not {shown(first['input'])}{more}"


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """The keys allowed in the section at ``location``."""
    section: type[BaseModel] = Pipeline
    for part in location:
        if isinstance(part, int):
            continue
        annotation = section.model_fields[part].annotation
        if part == "candidates":
            annotation = Candidate
        elif section is Candidate and part == "finetune":
            annotation = FineTune
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            section = annotation
    return list(section.model_fields)


def expand(content: dict[str, Any]) -> dict[str, Any]:
    """The settings of a pipeline with a candidate for every match of a ``*`` in a model.

    Raises ``ConfigError`` for a pattern without a match or with a name.
    """
    entries = content.get("candidates")
    if not isinstance(entries, list):
        return content  # what it must be is said where it is read
    return {**content, "candidates": [one for entry in entries for one in _expanded(entry)]}


def _expanded(entry: Any) -> list[Any]:
    shared = {"model": entry} if isinstance(entry, str) else entry
    pattern = shared.get("model") if isinstance(shared, dict) else None
    if not isinstance(pattern, str) or "*" not in pattern:
        return [entry]
    if "name" in shared:
        raise ConfigError(
            f"candidates: '{pattern}' names its candidates by their folders; leave out the name "
            f"'{shared['name']}'"
        )
    try:
        pattern = place(pattern)
    except ValueError as error:
        raise ConfigError(f"candidates: {error}") from None
    matches = glob.iglob(str(Path(pattern).expanduser()))  # noqa: PTH207 (takes any pattern)
    paths = sorted(islice(matches, _MOST_PATHS + 1))
    if len(paths) > _MOST_PATHS:
        raise ConfigError(
            f"candidates: '{short(pattern)}' matches more than {_MOST_PATHS:,} paths; write it for "
            "the folders of checkpoints, e.g. models/*"
        )
    found = [
        path for path in paths if path.endswith(".gguf") or Path(path, "config.json").is_file()
    ]
    if not found:
        others = f", only {paths[0]}" if paths else ""
        raise ConfigError(
            f"candidates: '{pattern}' matches no folder with a config.json{others}; write it for "
            "the folders of checkpoints, e.g. models/*"
        )
    return [{**shared, "name": _name(path), "model": path} for path in found]


def _name(path: str) -> str:
    """A folder may be called anything, a candidate may not; equal names are refused later."""
    return re.sub(r"[^\w.\-]+", "-", name_of(path)).strip("-.") or "candidate"
