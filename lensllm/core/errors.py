"""Mistakes the user can mend: the command line prints the sentence and exits with code 2."""

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any


class LensError(Exception):
    """Base of every error whose message is written for the user."""


class ConfigError(LensError):
    """pipelines.yaml or an override is wrong."""


class DataError(LensError):
    """A data file is missing, has no such column, or is too small for the sweep."""


class ModelError(LensError):
    """A candidate cannot be found, loaded or trained."""


class StoreError(LensError):
    """The artifacts folder cannot be written or read."""


class DiskFullError(StoreError):
    """No space is left: whatever comes next would fail as well."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the nearest known spelling, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{near[0]}'?)" if near else ""


def listing(words: Iterable[object], most: int = 20) -> str:
    """``a, b, c``; of more than ``most`` words the first, and how many others there are."""
    texts = [f"{text[:79]}…" if len(text) > 80 else text for text in map(str, words)]
    more = f" and {len(texts) - most:,} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def label(settings: Mapping[str, Any]) -> str:
    """Settings as on the command line: ``law.tau=3, sweep.seeds=2``."""
    return ", ".join(f"{key}={shown(value)}" for key, value in settings.items())


def shown(value: Any) -> str:
    """A setting's value in as few characters as tell it from others: ``3`` for 3.0."""
    return value if isinstance(value, str) else json.dumps(value).removesuffix(".0")
