"""What the command line tells of a pipeline, as data; ``flows.cli.screens`` draws it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from lensllm.config import configfile
from lensllm.config.sections import Pipeline
from lensllm.core.errors import LensError
from lensllm.selection.ranking import choice
from lensllm.store.artifacts import Ref, Store
from tasks.base.goal import Goal
from tasks.planning.plan import Conclusion, Plan, conclude, make_plan
from tasks.planning.rounds import Sweep, sweep
from tasks.stages import decision

if TYPE_CHECKING:
    from flows.running.ending import Outcome
    from flows.running.progress import Tally

# What ``lensllm replay --json`` gives of a table's columns.
_SCORES = (
    "budget", "target", "predictor", "pearson", "spearman", "kendall", "rel_acc", "rmse_log",
    "coverage_80", "p_best_log_score",
)  # fmt: skip
_CANDIDATES = ("candidate", "budget", "predictor", "predicted", "low", "high", "p_best")


@dataclass(frozen=True)
class Summary:
    """A finished ranking."""

    goal: Goal
    verdict: str
    predictions: pd.DataFrame  # ranking/predictions, at every budget
    scores: pd.DataFrame  # ranking/scores, at every budget
    weights: pd.DataFrame  # ranking/weights
    cost: pd.DataFrame  # ranking/cost, of the candidates where it is known
    examples: pd.DataFrame  # simulation/cost; no rows unless a policy was played on a table
    decisions: pd.DataFrame  # sweep/decisions; no rows without a policy
    findings: pd.DataFrame  # checks/findings
    forecast: pd.DataFrame  # report/forecast; no rows unless candidates were probed
    parameters: dict[str, float]  # weights by candidate; NaN where unknown
    failures: tuple[tuple[str, str], ...]
    folder: Path  # report.html, curves.png, predictions.csv
    computed: int | None = None  # artefacts of this run; None when it was only read again
    cached: int | None = None

    @property
    def rows(self) -> pd.DataFrame:
        """The answer: the goal's predictor at the largest budget, best first."""
        table = self.predictions
        mine = table["predictor"] == self.goal.ranking.predictor
        rows = table[mine & (table["budget"] == self.budget)]
        return rows.sort_values(["rank", "candidate"])

    @property
    def budget(self) -> int:
        """The largest size that was paid for: less than allowed, where a policy stopped early."""
        return int(self.predictions["budget"].max())

    @property
    def choice(self) -> str:
        """The candidate to fine-tune."""
        return choice(self.rows)

    @property
    def final_scores(self) -> pd.DataFrame:
        """The scores at the largest budget."""
        return self.scores[self.scores["budget"] == self.budget]

    @property
    def saved(self) -> float | None:
        """Share of the cost of fine-tuning every candidate on the target that was not spent: in
        FLOPs, or in examples where a policy was played on a table; None where neither is known."""
        if len(self.examples):
            spent, full = self.examples.iloc[0]
            return 1.0 - float(spent / full)
        if self.cost.empty:
            return None
        return 1.0 - float(self.cost["spent_flops"].sum() / self.cost["full_flops"].sum())

    @property
    def as_dict(self) -> dict[str, Any]:
        """For ``run --json``: NaN becomes null."""
        return {
            "pipeline": self.goal.name,
            "target": self.goal.target,
            "metric": self.goal.ranking.metric,
            "predictor": self.goal.ranking.predictor,
            "choice": self.choice,
            "verdict": self.verdict,
            "ranking": json_rows(self.rows.drop(columns="predictor")),
            "scores": json_rows(self.scores),
            "cost": json_rows(pd.DataFrame([{**_totals(self.cost), "saved": self.saved}]))[0],
            "forecast": json_rows(self.forecast),
            "decisions": json_rows(self.decisions),
            "checks": json_rows(self.findings),
            "computed": self.computed,
            "cached": self.cached,
            "failed": [{"step": label, "reason": reason} for label, reason in self.failures],
            "report": str(self.folder / "report.html"),
        }

    @property
    def as_replay(self) -> dict[str, Any]:
        """For ``replay --json``: every predictor at every budget."""
        scores = self.scores.assign(target=self.goal.target)
        return {
            "scores": json_rows(scores[list(_SCORES)]),
            "candidates": json_rows(self.predictions[list(_CANDIDATES)]),
            "target": self.goal.target,
            "budget": self.budget,
            "metric": self.goal.ranking.metric,
            "predictor": self.goal.ranking.predictor,
            "choice": self.choice,
            "verdict": self.verdict,
            "saved": self.saved,
            "decisions": json_rows(self.decisions),
            "checks": json_rows(self.findings),
            "report": str(self.folder / "report.html"),
        }


def summarise(outcome: Outcome, store: Store, tally: Tally) -> Summary:
    """The summary of a run that has just ended."""
    return _summary(
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
        now = as_left(plan, store)
        conclusion = conclude(name, plan, store, [], now.cells, now.decisions)
        if now.over and store.has(conclusion.report.ref):
            steps = (*plan.groundwork, *now.steps)
            lost = {step.label: "not there; run again" for step in steps if not store.has(step.ref)}
            return _summary(conclusion, store, tuple(lost.items()))
    raise LensError(f"'{name}' has no ranking with these settings yet; lensllm run {name} makes it")


def as_left(plan: Plan, store: Store) -> Sweep:
    """The sweep as a run left it: what is not there is not to come."""
    return sweep(plan, store, lost=lambda ref: not store.in_progress(ref))


def _summary(
    conclusion: Conclusion,
    store: Store,
    failures: tuple[tuple[str, str], ...],
    computed: int | None = None,
    cached: int | None = None,
) -> Summary:
    ranks, upstream = conclusion.ranking.ref, conclusion.report.recipe.upstream
    cells = store.table(conclusion.curve, "cells")
    played = upstream.get("simulation")
    return Summary(
        goal=conclusion.goal,
        verdict=conclusion.verdict(store),
        predictions=store.table(ranks, "predictions"),
        scores=store.table(ranks, "scores"),
        weights=store.table(ranks, "weights"),
        cost=store.table(ranks, "cost").dropna(),
        examples=store.table(played, "cost") if played else pd.DataFrame(),
        decisions=decision.of(store, upstream),
        findings=store.table(conclusion.checks.ref, "findings"),
        forecast=store.table(conclusion.report.ref, "forecast"),
        parameters=dict(zip(cells["candidate"], cells["parameters"].astype(float), strict=True)),
        failures=failures,
        folder=store.root / "reports" / conclusion.goal.name,
        computed=computed,
        cached=cached,
    )


def json_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table for JSON: null for what is not finite."""
    return [
        {
            str(k): None if isinstance(v, float) and not math.isfinite(v) else v
            for k, v in row.items()
        }
        for row in frame.to_dict("records")
    ]


def _totals(cost: pd.DataFrame) -> dict[str, float]:
    return {c: float(cost[c].sum()) for c in ("spent_flops", "full_flops")}


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


def garbage(files: Sequence[Path], store: Store) -> Garbage:
    """What ``gc`` may delete: everything that no pipeline of ``files`` is made of."""
    wanted: set[Ref] = set()
    for file in files:
        for name in configfile.names(file):
            wanted |= _belonging(name, configfile.load(file, name), store)
    refs = store.unreferenced(wanted)
    return Garbage(refs, [store.size_bytes(ref) for ref in refs])


def _belonging(name: str, settings: Pipeline, store: Store) -> set[Ref]:
    """All that a pipeline is made of, as far as it is."""
    plan = make_plan(settings, store)
    now = as_left(plan, store)
    ending = conclude(name, plan, store, [], now.cells, now.decisions)
    wanted = {step.ref for step in (*plan.steps, *now.steps, *ending.steps)}
    # Pages name what failed, and probes of other machines, neither of which is in the plan.
    pages = {ref for ref in store.present() if ref.stage == "report"}
    ranking = [ending.ranking.ref.stage, ending.ranking.ref.key]
    mine = {ref for ref in pages if _upstream(store, ref).get("ranking") == ranking}
    return wanted | _ancestry(store, {*mine, *plan.past.values()})


def _ancestry(store: Store, refs: set[Ref]) -> set[Ref]:
    """``refs`` and all that they were made from."""
    found: set[Ref] = set()
    while refs:
        found |= refs
        refs = {Ref(*up) for ref in refs for up in _upstream(store, ref).values()} - found
    return found


def _upstream(store: Store, ref: Ref) -> dict[str, list[str]]:
    upstream: dict[str, list[str]] = store.manifest(ref)["upstream"] if store.has(ref) else {}
    return upstream
