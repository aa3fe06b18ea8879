"""The result of an ablation, and its points as rows for people."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lensllm.config import grid
from lensllm.report import text
from lensllm.store.artifacts import Ref


@dataclass(frozen=True)
class Ablated:
    """A finished ablation."""

    pipeline: str
    ref: Ref  # of the stage ablation
    failures: tuple[tuple[str, str], ...]  # label and reason
    folder: Path  # the page, its figure and points.csv, at a name that stays


def by_setting(points: pd.DataFrame) -> pd.DataFrame:
    """ablation/points with a column per setting in place of their JSON."""
    settings = pd.DataFrame(
        [{key: grid.shown(v) for key, v in json.loads(row).items()} for row in points["settings"]],
        index=points.index,
    )
    rest = points.drop(columns=["point", "settings"])
    return pd.concat([points[["point"]], settings, rest], axis=1)


def rows(points: pd.DataFrame) -> list[dict[str, str]]:
    """ablation/points for people: a setting or a number by its heading."""
    table, shown = by_setting(points), []
    measured = bool(points["pearson"].notna().any())
    keys = list(json.loads(points["settings"].iloc[0]))
    last = [key.rpartition(".")[2] for key in keys]
    names = last if len(set(last)) == len(keys) else keys
    for row in table.to_dict("records"):
        line = {"": "own" if row["reference"] else str(row["point"])}
        line |= {name: row[key] for name, key in zip(names, keys, strict=True)}
        line |= {"choice": row["choice"] or "failed", "Kendall": text.score(row["kendall"])}
        if measured:
            line |= {
                "true order": text.score(row["truth_kendall"]),
                "PearCorr": text.score(row["pearson"]),
                "regret": text.loss(row["regret"]),
            }
        line |= {
            "D* (seen)": _size(row["transition"], row["transition_seen"]),
            "AtS (seen)": _size(row["ats_transition"], row["ats_seen"]),
        }
        shown.append(line)
    return shown


def _size(examples: float, seen: int) -> str:
    """A median, and of how many candidates it is no end of what can be seen."""
    return text.MISSING if pd.isna(examples) else f"{text.size(examples)} ({seen})"
