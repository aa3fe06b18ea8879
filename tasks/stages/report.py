"""report: one self-contained page and the main figure, from the tables of all stages.

Key: everything it shows. Files: ``report.html``, ``curves.png``. Table: ``forecast``.
"""

import json
from collections.abc import Mapping, Sequence

import pandas as pd

from lensllm.config.sections import Data
from lensllm.core.meter import versions
from lensllm.selection.ranking import verdict
from lensllm.store.artifacts import Recipe, Ref, write_table
from lensllm.store.schemas import empty
from lensllm.training.throughput import compare_with_cells
from tasks.base.cell import Cell
from tasks.base.goal import Goal
from tasks.base.roles import labelled
from tasks.base.stage import Step, Work
from tasks.stages import curvature, decision, finetune, kernel, probe

VERSION = 5
_MACHINE = ["candidate", "size", "seed", "seconds", "peak_memory_bytes"]


def step(goal: Goal, upstream: Mapping[str, Ref], failed: Sequence[tuple[str, str]]) -> Step:
    """``upstream`` has curve, law, ranking, checks and, where there are, drift, losses, simulation,
    crossing, and rate:…, cell:…, probe:…, kernel:…, overlap:…, curvature:…, decision:… by label."""
    params = {
        "pipeline": goal.name,
        "target": goal.target,
        "metric": goal.ranking.metric,
        "budget": goal.budget,
        "predictor": goal.ranking.predictor,
        "config": dict(goal.settings),
        "failed": [list(entry) for entry in failed],
    }
    return Step("report", Recipe("report", VERSION, params, upstream), in_worker=False)


def build(work: Work) -> None:
    from lensllm.report import figure, page
    from lensllm.report.data import ReportData

    params = work.params

    def read(role: str, table: str) -> pd.DataFrame:
        if role not in work.upstream:
            return pd.DataFrame()
        return work.store.table(work.upstream[role], table)

    def tables(kind: str, table: str) -> dict[str, pd.DataFrame]:
        return {n: work.store.table(ref, table) for n, ref in labelled(work.upstream, kind).items()}

    cells = tables("cell", "cell")
    forecast = _forecast(work, cells)
    write_table(work.folder, "report/forecast", forecast)
    predictions = read("ranking", "predictions")
    budget = int(predictions["budget"].max())
    final = predictions[predictions["budget"] == budget]
    data = ReportData(
        pipeline=params["pipeline"],
        metric=params["metric"],
        target=params["target"],
        budget=budget,
        default_predictor=params["predictor"],
        verdict=verdict(final, params["predictor"], params["target"], params["metric"]),
        cells=read("curve", "cells"),
        fits=read("law", "fits"),
        all_predictions=predictions,
        all_scores=read("ranking", "scores"),
        comparison=read("ranking", "comparison"),
        weights=read("ranking", "weights"),
        skipped=read("ranking", "skipped"),
        findings=read("checks", "findings"),
        decisions=decision.of(work.store, work.upstream),
        examples=read("simulation", "cost"),
        notes=read("losses", "notes"),
        cost=read("ranking", "cost"),
        drift=read("drift", "sizes"),
        bounds=curvature.read(work, "bound"),
        layers=curvature.read(work, "layers"),
        densities=_by_candidate(curvature.read(work, "density")),
        crossings=read("crossing", "candidates"),
        agreement=read("crossing", "agreement"),
        machine=_machine(cells),
        forecast=forecast,
        kernels={
            name: kernel.read_spectrum(work.store, ref)
            for name, ref in labelled(work.upstream, "kernel").items()
        },
        matrices=tables("kernel", "matrix"),
        overlaps={name: rows.iloc[0] for name, rows in tables("overlap", "summary").items()},
        failed=[(label, reason) for label, reason in params["failed"]],
        config=params["config"],
        versions=_versions(cells),
        rates=tables("rate", "rates"),
    )
    (work.folder / "report.html").write_text(page.render(data), encoding="utf-8")
    figure.save_png(figure.curves(data), work.folder / "curves.png")


def _versions(cells: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    """Of what computed the cells; of what ranks them, where they were measured elsewhere."""
    if not cells:
        return versions()
    known: dict[str, str] = json.loads(next(iter(cells.values()))["versions"].iloc[0])
    return known


def _machine(cells: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """What the cells used, by the candidates' names of this pipeline: their keys are nameless."""
    frames = [
        table.assign(candidate=Cell.parse(label).candidate)[_MACHINE]
        for label, table in cells.items()
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=_MACHINE)


def _forecast(work: Work, cells: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """What the probes say of the cells, and what these took."""
    probes = labelled(work.upstream, "probe")
    paces = {name: probe.read(work.store, ref) for name, ref in probes.items()}
    if not (paces and cells):
        return empty("report/forecast")
    data = Data.model_validate(work.params["config"]["data"])
    named = [t.assign(candidate=Cell.parse(label).candidate) for label, t in cells.items()]

    def example_counts(epochs: int, size: int) -> tuple[int, int]:
        return finetune.example_counts(data, epochs, size)

    return compare_with_cells(paces, pd.concat(named, ignore_index=True), example_counts)


def _by_candidate(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {str(name): mine for name, mine in rows.groupby("candidate")} if len(rows) else {}
