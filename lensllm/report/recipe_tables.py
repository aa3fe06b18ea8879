"""By which recipe each candidate was trained: chosen learning rates, and who trains otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lensllm.report.data import ReportData

# What makes two candidates' training equally long; other differences are a matter of what suits.
_EFFORT = ("epochs", "batch_size")


@dataclass(frozen=True)
class Choice:
    """One candidate's learning rate."""

    candidate: str
    rate: float
    losses: tuple[tuple[float, float], ...]  # (rate tried, validation loss), ascending
    edge: str  # "largest" or "smallest" of those tried, or nothing


def choices(data: ReportData) -> list[Choice]:
    """Of the candidates for which one was chosen, in the order of the ranking."""
    found = []
    for name in data.candidates:
        if name not in data.rates:
            continue
        table = data.rates[name].sort_values("learning_rate")
        tried = table["learning_rate"].tolist()
        rate = float(table.loc[table["chosen"], "learning_rate"].iloc[0])
        losses = tuple(zip(tried, table["validation_nats_per_token"].tolist(), strict=True))
        edge = {tried[0]: "smallest", tried[-1]: "largest"}.get(rate, "")
        found.append(Choice(name, rate, losses, edge))
    return found


def unequal(config: Mapping[str, Any]) -> list[str]:
    """A sentence for each candidate whose epochs or effective batch are not the others'."""
    common = config.get("finetune", {})
    found = []
    for candidate in config.get("candidates", ()):
        own = candidate.get("finetune", {})
        differ = [key for key in _EFFORT if key in own and own[key] != common.get(key)]
        if differ:
            said = " and ".join(f"{key} {own[key]} instead of {common.get(key)}" for key in differ)
            found.append(f"{candidate['name']} is trained with {said}.")
    return found
