"""report: one self-contained page and the main figure, from the tables of all stages.

Key: everything it shows. Files: ``report.html``, ``curves.png``.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple

import pandas as pd

from lensllm.config import Pipeline, public
from lensllm.ranking import verdict
from lensllm.store import Recipe, Ref
from tasks import kernel
from tasks.cell import Cell
from tasks.stage import Step, Work

VERSION = 1
_MACHINE = ["candidate", "size", "seed", "seconds", "peak_memory_bytes"]


def step(
    pipeline: str,
    config: Pipeline,
    target: int,
    upstream: Mapping[str, Ref],
    failed: Sequence[tuple[str, str]],
) -> Step:
    """``upstream`` has curve, law, ranking, drift, and cell:…, kernel:…, curvature:… by label."""
    params = {
        "pipeline": pipeline,
        "target": target,
        "config": public(config),
        "failed": [list(entry) for entry in failed],
    }
    return Step("report", Recipe("report", VERSION, params, upstream), in_worker=False)


def build(work: Work) -> None:
    from lensllm.report import figure, page
    from lensllm.report.data import ReportData

    config = Pipeline.model_validate(work.params["config"])

    def read(role: str, table: str) -> pd.DataFrame:
        return work.store.table(work.upstream[role], table)

    def labelled(kind: str) -> dict[str, Ref]:
        return {
            role.removeprefix(f"{kind}:"): ref
            for role, ref in work.upstream.items()
            if role.startswith(f"{kind}:")
        }

    cells = {label: work.store.table(ref, "cell") for label, ref in labelled("cell").items()}
    bounds = {label: work.store.table(ref, "bound") for label, ref in labelled("curvature").items()}
    predictions = read("ranking", "predictions")
    data = ReportData(
        pipeline=work.params["pipeline"],
        metric=config.ranking.metric,
        target=work.params["target"],
        budget=config.sweep.max,
        default_predictor=config.ranking.predictor,
        verdict=verdict(
            predictions, config.ranking.predictor, work.params["target"], config.ranking.metric
        ),
        cells=read("curve", "cells"),
        fits=read("law", "fits"),
        predictions=predictions,
        scores=read("ranking", "scores"),
        cost=read("ranking", "cost"),
        drift=read("drift", "sizes") if "drift" in work.upstream else pd.DataFrame(),
        bounds=_named(bounds),
        layers={
            astuple(Cell.parse(label)): work.store.table(ref, "layers")
            for label, ref in labelled("curvature").items()
        },
        machine=_named(cells)[_MACHINE],
        kernels={
            name: kernel.read_spectrum(work.store, ref) for name, ref in labelled("kernel").items()
        },
        failed=[(label, reason) for label, reason in work.params["failed"]],
        config=work.params["config"],
        versions=json.loads(next(iter(cells.values()))["versions"].iloc[0]),
    )
    (work.folder / "report.html").write_text(page.render(data), encoding="utf-8")
    figure.save_png(figure.curves(data), work.folder / "curves.png")


def _named(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The tables one under another; candidates are named by label, as their keys are nameless."""
    frames = [
        table.assign(candidate=Cell.parse(label).candidate) for label, table in tables.items()
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
