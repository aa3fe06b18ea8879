"""The results that the command line tells, as data; ``flows.cli.screens`` draws them."""

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
from lensllm.report.reading import read_report, report_folder
from lensllm.report.result import Result
from lensllm.store.artifacts import Ref, Store
from tasks.base.plan import Plan
from tasks.planning.plan import make_plan, plan_ranking
from tasks.planning.rounds import Sweep, sweep
from tasks.stages import trunk

if TYPE_CHECKING:
    from flows.running.ending import Outcome
    from flows.running.terminal import Tally

# What ``lensllm replay --json`` gives of a table's columns.
_SCORES = (
    "budget", "target", "predictor", "pearson", "spearman", "kendall", "rel_acc", "rmse_log",
    "coverage_80", "p_best_log_score",
)  # fmt: skip
_CANDIDATES = ("candidate", "budget", "predictor", "predicted", "low", "high", "p_best")


@dataclass(frozen=True)
class Summary:
    """A finished ranking, and what the command that shows it had to do."""

    result: Result
    failures: Sequence[tuple[str, str]]  # label and reason
    folder: Path  # report.html, curves.png, predictions.csv
    computed: int | None = None  # artefacts of this run; None when it was only read again
    cached: int | None = None

    @property
    def _answer(self) -> dict[str, Any]:
        """The part that every command gives."""
        result = self.result
        return {
            "target": result.target,
            "metric": result.metric,
            "predictor": result.predictor,
            "choice": result.choice,
            "verdict": result.verdict,
            "decisions": json_rows(result.decisions),
            "checks": json_rows(result.findings),
            "report": str(self.folder / "report.html"),
        }

    @property
    def as_dict(self) -> dict[str, Any]:
        """The content of ``run --json``: NaN becomes null."""
        result, known = self.result, self.result.cost.dropna()
        totals = {c: float(known[c].sum()) for c in ("spent_flops", "full_flops")}
        return {
            **self._answer,
            "pipeline": result.pipeline,
            "ranking": json_rows(result.ranking.drop(columns="predictor")),
            "scores": json_rows(result.all_scores),
            "cost": json_rows(pd.DataFrame([{**totals, "saved": result.saved}]))[0],
            "forecast": json_rows(result.forecast),
            "computed": self.computed,
            "cached": self.cached,
            "failed": [{"step": label, "reason": reason} for label, reason in self.failures],
        }

    @property
    def as_replay(self) -> dict[str, Any]:
        """The content of ``replay --json``: every predictor at every budget."""
        result = self.result
        return {
            **self._answer,
            "scores": json_rows(result.all_scores.assign(target=result.target)[list(_SCORES)]),
            "candidates": json_rows(result.all_predictions[list(_CANDIDATES)]),
            "budget": result.budget,
            "saved": result.saved,
        }


def summarise(outcome: Outcome, tally: Tally) -> Summary:
    """The summary of a run that has just ended."""
    return Summary(
        outcome.result,
        outcome.result.failed,
        outcome.folder,
        computed=tally.done.total(),
        cached=tally.cached.total(),
    )


def reread(name: str, settings: Pipeline, store: Store) -> Summary:
    """The summary of an earlier run. Raises ``LensError`` when there was none."""
    plan = make_plan(settings, store)
    if plan.present("finetune"):
        now = as_left(plan)
        ranking = plan_ranking(name, plan, [], now.cells, now.decisions)
        if now.over and store.has(report := ranking.ref("report")):
            steps = (*plan.preparation, *now.steps)
            lost = {step.label: "not there; run again" for step in steps if not store.has(step.ref)}
            return Summary(read_report(store, report), [*lost.items()], report_folder(store, name))
    raise LensError(f"'{name}' has no ranking with these settings yet; lensllm run {name} makes it")


def as_left(plan: Plan) -> Sweep:
    """The sweep as a run left it: what is not there is not to come."""
    return sweep(plan, lost=lambda ref: not plan.store.in_progress(ref))


def json_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table for JSON: null for what is not finite."""
    return [
        {
            str(k): None if isinstance(v, float) and not math.isfinite(v) else v
            for k, v in row.items()
        }
        for row in frame.to_dict("records")
    ]


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
    """The artefacts that ``gc`` may delete: no pipeline of ``files`` is made of them."""
    wanted: set[Ref] = set()
    for file in files:
        for name in configfile.names(file):
            wanted |= _belonging(name, configfile.load(file, name), store)
    refs = store.unreferenced(wanted)
    return Garbage(refs, [store.size_bytes(ref) for ref in refs])


def _belonging(name: str, settings: Pipeline, store: Store) -> set[Ref]:
    """The artefacts of a pipeline, planned or made."""
    plan = make_plan(settings, store)
    now = as_left(plan)
    ranking = plan_ranking(name, plan, [], now.cells, now.decisions)
    wanted = {step.ref for step in (*plan.steps, *now.steps, *ranking.steps)}
    wanted |= trunk.belonging(plan)
    # Pages name what failed, and probes of other machines, neither of which is in the plan.
    pages = {ref for ref in store.present() if ref.stage == "report"}
    ranked = ranking.ref("ranking")
    same = [ranked.stage, ranked.key]
    mine = {ref for ref in pages if _upstream(store, ref).get("ranking") == same}
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
