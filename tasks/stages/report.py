"""report: one self-contained page and the main figure, from the tables of all stages.

Key: everything it shows. Files: ``report.html``, ``curves.png``.
Tables: ``forecast``, ``measurements``.
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from lensllm.config.sections import Data
from lensllm.store.artifacts import Recipe, Ref, write_table
from lensllm.store.schemas import empty
from lensllm.training.throughput import compare_with_cells
from tasks.base.cell import Cell
from tasks.base.goal import Goal
from tasks.base.roles import labelled
from tasks.base.stage import Step, Work
from tasks.stages import finetune, probe

VERSION = 6


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
    from lensllm.report import page
    from lensllm.report.curve_figure import curves
    from lensllm.report.reading import long_form, result_of
    from lensllm.report.style import save_png

    forecast = _forecast(work)
    write_table(work.folder, "report/forecast", forecast)
    tables = dict[str, pd.DataFrame]()
    write_table(work.folder, "report/measurements", long_form(tables))
    result = result_of(work.store, work.params, work.upstream, forecast, tables)
    (work.folder / "report.html").write_text(page.render(result), encoding="utf-8")
    save_png(curves(result), work.folder / "curves.png")


def _forecast(work: Work) -> pd.DataFrame:
    """The seconds, FLOPs and memory that probes predict of the cells, and what the cells took."""
    cells = {n: work.store.table(r, "cell") for n, r in labelled(work.upstream, "cell").items()}
    probes = labelled(work.upstream, "probe")
    paces = {name: probe.read(work.store, ref) for name, ref in probes.items()}
    if not (paces and cells):
        return empty("report/forecast")
    data = Data.model_validate(work.params["config"]["data"])
    named = [t.assign(candidate=Cell.parse(label).candidate) for label, t in cells.items()]

    def example_counts(epochs: int, size: int) -> tuple[int, int]:
        return finetune.example_counts(data, epochs, size)

    return compare_with_cells(paces, pd.concat(named, ignore_index=True), example_counts)
