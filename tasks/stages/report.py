"""report: one self-contained page and the main figure, from the tables of all stages.

Key: everything it shows. Files: ``report.html``, ``curves.png``.
Tables: ``forecast``, ``measurements``.
"""

import pandas as pd

from lensllm.store.schemas import empty
from lensllm.training.throughput import compare_with_cells
from tasks.base.plan import RankingPlan, per_ranking
from tasks.base.stage import Stage
from tasks.base.step import BuildContext, Cell, Step, roles_of
from tasks.stages import probe


def step(plan: RankingPlan) -> Step:
    """The step of the page about one ranking, with all that other stages let it show."""
    goal = plan.goal
    params = {
        "pipeline": goal.name,
        "target": goal.target,
        "metric": goal.ranking.metric,
        "budget": goal.budget,
        "predictor": goal.ranking.predictor,
        "config": dict(goal.settings),
        "failed": [list(entry) for entry in plan.failed],
    }
    shown = [name for name, s in plan.stages.items() if s.in_report or s.report_title]
    upstream = plan.refs("curve", "law", "ranking", "checks", *shown)
    return STAGE.step("report", params, upstream)


def build(context: BuildContext) -> None:
    from lensllm.report import page
    from lensllm.report.curve_figure import curves
    from lensllm.report.reading import long_form, result_of
    from lensllm.report.style import save_png

    forecast = _forecast(context)
    context.write("report/forecast", forecast)
    tables = _titled(context)
    context.write("report/measurements", long_form(tables))
    result = result_of(context.store, context.params, context.upstream, forecast, tables)
    (context.folder / "report.html").write_text(page.render(result), encoding="utf-8")
    save_png(curves(result), context.folder / "curves.png")


def _titled(context: BuildContext) -> dict[str, pd.DataFrame]:
    """The first table of every stage with a title in the report, by title, a row per artefact."""
    from tasks.stages import STAGES  # not at the top: this module is one of them

    found = {}
    for stage in (s for s in STAGES.values() if s.report_title):
        refs = roles_of(context.upstream, stage.name)
        name = stage.tables[0].partition("/")[2]
        if rows := [context.store.table(ref, name) for ref in refs]:
            found[stage.report_title] = pd.concat(rows, ignore_index=True)
    return found


def _forecast(context: BuildContext) -> pd.DataFrame:
    """The seconds, FLOPs and memory that probes predict of the cells, and what the cells took."""
    cells = {n: context.store.table(r, "cell") for n, r in context.each("finetune").items()}
    probes = context.each("probe")
    throughputs = {name: probe.read(context.store, ref) for name, ref in probes.items()}
    if not (throughputs and cells):
        return empty("report/forecast")
    named = [t.assign(candidate=Cell.parse(label).candidate) for label, t in cells.items()]
    return compare_with_cells(throughputs, pd.concat(named, ignore_index=True))


STAGE = Stage(
    name="report",
    version=7,
    tables=("report/forecast", "report/measurements"),
    plan=per_ranking(step),
    build=build,
    in_worker=False,
)
