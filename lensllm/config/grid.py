"""The grid of settings that an ablation compares: every combination of the values of some keys.

``--over law.tau=3,8`` names values of one key. The pipeline's own value is always among them, and
the first point is the pipeline as it stands.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from lensllm.config import configfile
from lensllm.config.sections import Pipeline
from lensllm.core import untrusted
from lensllm.core.errors import ConfigError, LensError
from lensllm.core.errors import label as label
from lensllm.core.errors import shown as shown
from lensllm.core.untrusted import short

_HOW = "write it as KEY.PATH=VALUE,VALUE, e.g. --over law.tau=3,8"
_MOST_POINTS = 1_000  # each is read, planned and ranked
# Settings that change no ranking: curvature is a diagnostic.
_NO_RESULT = ("description", "curvature", "engine", "tracking", "schedule")


@dataclass(frozen=True)
class Point:
    """One combination of values."""

    settings: Mapping[str, Any]  # value of every key of the grid, as the configuration has it
    config: Pipeline
    overrides: tuple[str, ...]  # with which the configuration file gives ``config``

    @property
    def label(self) -> str:
        """``law.tau=3, sweep.seeds=2``."""
        return label(self.settings)


def read(
    path: Path, name: str, over: Sequence[str], overrides: Sequence[str] = ()
) -> tuple[Point, ...]:
    """The grid of pipeline ``name`` over every ``KEY.PATH=VALUE,VALUE`` of ``over``.

    The pipeline as it stands comes first, then the others in the order of the keys' values.
    Raises ``ConfigError`` as ``configfile.load`` does, naming the point, and for a key without
    values, with the same value twice or with none but the pipeline's own.
    """
    if not over:
        raise ConfigError(f"name a setting to vary: --over KEY; {_HOW}")
    own = configfile.load(path, name, overrides)
    axes: dict[str, list[Any]] = {}
    for text in over:
        key, values = _parse(text)
        if key in axes:
            raise ConfigError(f"--over {key} is given twice; put all its values into one")
        found = [_value(_point(path, name, {key: v}, overrides).config, key) for v in values]
        axes[key] = _axis(key, found, _value(own, key))
    if (count := math.prod(map(len, axes.values()))) > _MOST_POINTS:
        raise ConfigError(
            f"--over {', '.join(axes)}: {count:,} combinations of values, of at most "
            f"{_MOST_POINTS:,}; name fewer values"
        )
    reference = {key: _value(own, key) for key in axes}
    others = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    chosen = [reference, *(settings for settings in others if settings != reference)]
    return tuple(_point(path, name, settings, overrides) for settings in chosen)


def _parse(text: str) -> tuple[str, list[Any]]:
    """The key and its values, read as YAML, so that ``[a, b],[c]`` are two."""
    key, equals, listed = text.partition("=")
    key = key.strip()
    if not (key and equals):
        raise ConfigError(f"--over {short(text)}: {_HOW}")
    try:
        values = untrusted.parse_yaml(f"[{listed}]")
    except untrusted.UnreadableError as error:
        raise ConfigError(
            f"--over {short(text)}: the values are not YAML with commas between ({error})"
        ) from None
    if not isinstance(values, list) or not values:
        raise ConfigError(f"--over {short(text)}: no value; {_HOW}")
    if key.partition(".")[0] in _NO_RESULT:
        raise ConfigError(f"--over {key}: it changes no ranking; vary what cells or laws depend on")
    if key.partition(".")[0] == "candidates":
        raise ConfigError(
            f"--over {key}: the points of a grid rank the same candidates; "
            "run the pipeline with others instead"
        )
    if len(values) > _MOST_POINTS:
        raise ConfigError(f"--over {key}: {len(values):,} values, of at most {_MOST_POINTS:,}")
    return key, values


def _axis(key: str, values: list[Any], own: Any) -> list[Any]:
    """The values with the pipeline's own: numbers ascending, else its own first."""
    if isinstance(own, dict):
        inner = ", ".join(f"{key}.{setting}" for setting in own)
        raise ConfigError(f"--over {key} is a section; vary one of its settings: {inner}")
    if twice := [value for i, value in enumerate(values) if value in values[:i]]:
        raise ConfigError(f"--over {key}: {shown(twice[0])} is there twice; name it once")
    if values == [own]:
        raise ConfigError(f"--over {key}={shown(own)}: the pipeline has it; name another")
    among = [own, *(value for value in values if value != own)]
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in among)
    return sorted(among) if numbers else among


def _point(path: Path, name: str, settings: Mapping[str, Any], overrides: Sequence[str]) -> Point:
    """Raises ``ConfigError`` that begins with the point's settings."""
    texts = [f"{key}={json.dumps(value, default=str)}" for key, value in settings.items()]
    together = (*overrides, *texts)
    try:
        return Point(dict(settings), configfile.load(path, name, together), together)
    except LensError as error:
        raise ConfigError(f"--over {', '.join(texts)}: {error}") from None


def _value(config: Pipeline, key: str) -> Any:
    """The configuration's value of ``key``, which exists."""
    value: Any = config.model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    return value
