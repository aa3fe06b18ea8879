"""A ``*`` in a candidate's model: every checkpoint it matches becomes a candidate."""

from __future__ import annotations

import glob
import re
from itertools import islice
from pathlib import Path
from typing import Any

from lensllm.config.sections import name_of, place
from lensllm.core.errors import ConfigError
from lensllm.core.untrusted import short

_MOST_PATHS = 10_000  # /*/*/* would look through the whole disk


def expand(content: dict[str, Any]) -> dict[str, Any]:
    """The raw ``content`` of a pipeline with a candidate for every match of a pattern.

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
    found = [path for path in paths if _is_checkpoint(Path(path))]
    if not found:
        others = f", only {paths[0]}" if paths else ""
        raise ConfigError(
            f"candidates: '{pattern}' matches no folder with a config.json{others}; write it for "
            "the folders of checkpoints, e.g. models/*"
        )
    return [{**shared, "name": _name(path), "model": path} for path in found]


def _is_checkpoint(path: Path) -> bool:
    return (path / "config.json").is_file() or path.suffix == ".gguf"


def _name(path: str) -> str:
    """A folder may be called anything, a candidate may not; equal names are refused later."""
    return re.sub(r"[^\w.\-]+", "-", name_of(path)).strip("-.") or "candidate"
