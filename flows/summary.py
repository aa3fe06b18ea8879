"""What the command line tells of a pipeline, as data; ``flows.screens`` draws it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from lensllm import configfile
from lensllm.config import Pipeline
from lensllm.errors import LensError
from lensllm.ranking import verdict
from lensllm.store import Ref, Store
from tasks.plan import Cell, Conclusion, Plan, conclude, make_plan

if TYPE_CHECKING:
    from flows.progress import Tally
    from flows.rank import Outcome


@dataclass(frozen=True)
class Summary:
    """A finished ranking."""

    pipeline: str
    settings: Pipeline
    target: int
    verdict: str
    predictions: pd.DataFrame  # ranking/predictions
    scores: pd.DataFrame  # ranking/scores
    cost: pd.DataFrame  # ranking/cost
    parameters: dict[str, int]  # weights by candidate
    failures: tuple[tuple[str, str], ...]
    folder: Path  # report.html, curves.png, predictions.csv
    computed: int | None = None  # artefacts of this run; None when it was only read again
    cached: int | None = None

    @property
    def chosen(self) -> pd.DataFrame:
        """The answer: the configured predictor's rows, best first."""
        rows = self.predictions[self.predictions["predictor"] == self.settings.ranking.predictor]
        return rows.sort_values(["rank", "candidate"])

    @property
    def saved(self) -> float:
        """Share of the FLOPs of fine-tuning every candidate on the target that was not spent."""
        known = self.cost.dropna()
        return 1.0 - float(known["spent_flops"].sum() / known["full_flops"].sum())

    @property
    def as_dict(self) -> dict[str, Any]:
        """For ``--json``: NaN becomes null."""
        return {
            "pipeline": self.pipeline,
            "target": self.target,
            "metric": self.settings.ranking.metric,
            "predictor": self.settings.ranking.predictor,
            "verdict": self.verdict,
            "ranking": _records(self.chosen.drop(columns="predictor")),
            "scores": _records(self.scores),
            "cost": _records(pd.DataFrame([{**_totals(self.cost), "saved": self.saved}]))[0],
            "computed": self.computed,
            "cached": self.cached,
            "failed": [{"step": label, "reason": reason} for label, reason in self.failures],
            "report": str(self.folder / "report.html"),
        }


def summarise(name: str, outcome: Outcome, store: Store, tally: Tally) -> Summary:
    """The summary of a run that has just ended."""
    return _summary(
        name,
        outcome.plan,
        outcome.conclusion,
        store,
        outcome.failures,
        computed=tally.computed.total(),
        cached=tally.cached.total(),
    )


def reread(name: str, settings: Pipeline, store: Store) -> Summary:
    """The summary of an earlier run. Raises ``LensError`` when there was none."""
    plan = make_plan(settings, store)
    if any(store.has(step.ref) for step in plan.cells.values()):
        conclusion = conclude(name, plan, store, [])
        if store.has(conclusion.ranking.ref):
            missing = [s.label for s in plan.steps if not store.has(s.ref)]
            lost = tuple((label, "not there; run again") for label in missing)
            return _summary(name, plan, conclusion, store, lost)
    raise LensError(f"'{name}' has no ranking with these settings yet; lensllm run {name} makes it")


def _summary(
    name: str,
    plan: Plan,
    conclusion: Conclusion,
    store: Store,
    failures: tuple[tuple[str, str], ...],
    computed: int | None = None,
    cached: int | None = None,
) -> Summary:
    predictions = store.table(conclusion.ranking.ref, "predictions")
    ranking = plan.config.ranking
    cells = store.table(conclusion.curve.ref, "cells")
    return Summary(
        pipeline=name,
        settings=plan.config,
        target=plan.target,
        verdict=verdict(predictions, ranking.predictor, plan.target, ranking.metric),
        predictions=predictions,
        scores=store.table(conclusion.ranking.ref, "scores"),
        cost=store.table(conclusion.ranking.ref, "cost"),
        parameters=dict(zip(cells["candidate"], cells["parameters"], strict=True)),
        failures=failures,
        folder=store.root / "reports" / name,
        computed=computed,
        cached=cached,
    )


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            str(k): None if isinstance(v, float) and not math.isfinite(v) else v
            for k, v in row.items()
        }
        for row in frame.to_dict("records")
    ]


def _totals(cost: pd.DataFrame) -> dict[str, float]:
    return {c: float(cost[c].sum()) for c in ("spent_flops", "full_flops")}


# --- status ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Grid:
    """The state of every cell: done, running or to come."""

    sizes: tuple[int, ...]
    target: int
    states: dict[Cell, str]
    others: dict[str, tuple[int, int]]  # stage → (artefacts, of which done)

    @property
    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "target": self.target,
            "cells": [{**vars(cell), "state": state} for cell, state in self.states.items()],
            "stages": {s: {"artefacts": n, "done": d} for s, (n, d) in self.others.items()},
        }


def grid(plan: Plan, store: Store) -> Grid:
    """Look every artefact of the plan up; what another process computes holds its lock."""
    others: dict[str, tuple[int, int]] = {}
    for step in plan.steps:
        if step.stage != "finetune":
            made, done = others.get(step.stage, (0, 0))
            others[step.stage] = (made + 1, done + store.has(step.ref))
    return Grid(
        sizes=tuple(sorted({cell.size for cell in plan.cells})),
        target=plan.target,
        states={cell: _state(store, step.ref) for cell, step in plan.cells.items()},
        others=others,
    )


def _state(store: Store, ref: Ref) -> str:
    if store.has(ref):
        return "done"
    return "running" if store.in_progress(ref) else "to come"


# --- gc ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Garbage:
    """Artefacts that no pipeline refers to."""

    refs: list[Ref]
    sizes_bytes: list[int]

    @property
    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "artefacts": [
                {"stage": ref.stage, "key": ref.key, "bytes": size}
                for ref, size in zip(self.refs, self.sizes_bytes, strict=True)
            ],
            "bytes": sum(self.sizes_bytes),
        }


def garbage(file: Path, store: Store) -> Garbage:
    """What ``gc`` may delete: everything that no pipeline of ``file`` is made of."""
    wanted: set[Ref] = set()
    for name in configfile.names(file):
        plan = make_plan(configfile.load(file, name), store)
        wanted |= {step.ref for step in plan.steps}
        wanted |= {step.ref for step in conclude(name, plan, store, []).steps}
    refs = store.unreferenced(wanted)
    return Garbage(refs, [store.size_bytes(ref) for ref in refs])
