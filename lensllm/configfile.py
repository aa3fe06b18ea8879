"""Read pipelines.yaml: defaults, overrides, and mistakes met with one sentence.

A pipeline overrides the defaults section by section, and ``--set sweep.max=3200`` overrides both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from lensllm import patterns
from lensllm.config import Candidate, FineTune, Pipeline, Replay
from lensllm.errors import ConfigError, suggestion
from lensllm.secrets import has_password


def load(path: Path, name: str, overrides: Sequence[str] = ()) -> Pipeline:
    """Pipeline ``name`` of the file at ``path`` with ``KEY.PATH=VALUE`` overrides.

    Raises ``ConfigError`` naming file, key path, what is allowed and the nearest right spelling.
    """
    content = _read(path)
    pipelines = content.get("pipelines") or {}
    if name not in pipelines:
        hint = suggestion(name, pipelines)
        raise ConfigError(f"{path}: no pipeline '{name}'{hint}; it has {', '.join(pipelines)}")
    merged = _merge(content.get("defaults") or {}, pipelines[name] or {})
    for override in overrides:
        merged = _override(merged, override)
    try:
        return Pipeline.model_validate(patterns.expand(merged))
    except ValidationError as error:
        raise ConfigError(f"{path}: pipeline '{name}': {_sentence(error)}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: pipeline '{name}': {error}") from None


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
        raise ConfigError(f"--{option}: {message}, not {first['input']!r}") from None


def names(path: Path) -> dict[str, str]:
    """The file's pipelines and their descriptions."""
    return {
        n: (p or {}).get("description", "") for n, p in _read(path).get("pipelines", {}).items()
    }


_NAME = re.compile(r"\w[\w\-. ]{0,79}")
# Some hundred are in use; a few lines of aliases of aliases can stand for more than memory holds.
_MOST_VALUES = 100_000


def _is_endless(content: Any) -> bool:
    """Whether there are more than ``_MOST_VALUES`` values, those of an alias each time counted."""
    waiting, seen = [content], 0
    while waiting and seen <= _MOST_VALUES:
        value = waiting.pop()
        seen += 1
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return seen > _MOST_VALUES


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key written twice, which YAML would silently overwrite."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    keys = [loader.construct_object(k) for k, _ in node.value]
    for place, (key, (key_node, _)) in enumerate(zip(keys, node.value, strict=True)):
        if key in keys[:place]:
            raise yaml.constructor.ConstructorError(
                None, None, f"key '{key}' is written twice", key_node.start_mark
            )
    return dict(
        zip(keys, [loader.construct_object(v, deep=True) for _, v in node.value], strict=True)
    )


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; name one with --file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: {getattr(error, 'problem', None) or error}") from None
    if _is_endless(content):
        raise ConfigError(f"{path}: its aliases (*name) make more than {_MOST_VALUES:,} values")
    allowed = ("defaults", "pipelines")
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected the keys {' and '.join(allowed)} at the top")
    for key in content:
        if key not in allowed:
            hint = suggestion(str(key), allowed)
            raise ConfigError(f"{path}: unknown key '{key}'{hint}; allowed: {', '.join(allowed)}")
    for section in content.values():
        if section is not None and not isinstance(section, dict):
            raise ConfigError(f"{path}: defaults and pipelines must be mappings")
    for name, pipeline in (content.get("pipelines") or {}).items():
        if pipeline is not None and not isinstance(pipeline, dict):
            raise ConfigError(f"{path}: pipeline '{name}' must be a mapping of sections")
        if not _NAME.fullmatch(str(name)):
            raise ConfigError(
                f"{path}: pipeline {name!r}: a name has letters, digits, '-', '_', '.' and spaces "
                "and begins with a letter or digit; a folder is called by it"
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
            f"--set {path}: a password on the command line is seen by everyone on the machine and "
            "kept in Prefect's records; write it into the configuration file"
        )
    if not equals or not path:
        raise ConfigError(f"--set {text}: write it as KEY.PATH=VALUE, e.g. --set sweep.max=3200")
    try:
        nested: Any = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"--set {text}: the value is not YAML") from None
    for key in reversed(path.strip().split(".")):
        nested = {key: nested}
    return _merge(content, nested)


def _sentence(error: ValidationError) -> str:
    # A misspelt key comes first: it is also why another one is missing.
    found = sorted(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
    first = found[0]
    where = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        allowed = _keys_at(first["loc"][:-1])
        hint = suggestion(str(first["loc"][-1]), allowed)
        return f"unknown key '{where}'{hint}; allowed: {', '.join(allowed)}{more}"
    if first["type"] == "value_error":
        return f"{where + ': ' if where else ''}{first['ctx']['error']}{more}"
    if first["type"] == "missing":
        return f"'{where}' is missing{more}"
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"'{where}': {message}, not {first['input']!r}{more}"


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
