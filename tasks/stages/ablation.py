"""ablation: the rankings at every point of a grid of settings, side by side, and how they differ.

Key: each point's settings, curves, laws and ranking, or why it has none. Tables: ``points``,
``candidates``, ``keys``; files: ``ablation.html``, ``ablation.png``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lensllm.curves.curve import curves_from_cells
from lensllm.predictors import AtS
from lensllm.selection.ablation import Outcome, Point, compare, verdict
from lensllm.selection.transitions import Transitions
from lensllm.store.artifacts import Ref
from tasks.base.plan import RankingPlan
from tasks.base.stage import Planner, Stage
from tasks.base.step import BuildContext, Step, roles


@dataclass(frozen=True)
class PointResult:
    """A point of the grid and its ranking."""

    settings: Mapping[str, Any]  # value of every key of the grid
    ranking: RankingPlan | None
    failed: str = ""  # why there is no ranking
    lacking: tuple[tuple[str, str], ...] = ()  # label and reason of what it had to do without


def step(name: str, points: Sequence[PointResult], config: Mapping[str, Any]) -> Step:
    """The comparison of a pipeline's ``points``; ``config`` is the first one's, in full."""
    params = {
        "pipeline": name,
        "points": [_params(point) for point in points],
        "config": dict(config),
    }
    made = {place: point.ranking for place, point in enumerate(points) if point.ranking}
    upstream: dict[str, Ref] = {}
    for stage in ("curve", "law", "ranking"):
        upstream |= roles(stage, {place: plan.ref(stage) for place, plan in made.items()})
    return STAGE.step("ablation", params, upstream)


def _params(point: PointResult) -> dict[str, Any]:
    params: dict[str, Any] = {
        "settings": dict(point.settings),
        "failed": point.failed,
        "lacking": [list(entry) for entry in point.lacking],
    }
    if point.ranking:
        goal = point.ranking.goal
        params |= goal.curve_params
        params |= {"target": goal.target, "predictor": goal.ranking.predictor}
        params |= {"gamma": goal.law.gamma, "tau": goal.law.tau}
    return params


def build(context: BuildContext) -> None:
    from lensllm.report import ablation, style

    asked = context.params["points"]
    found = compare([_point(context, place, params) for place, params in enumerate(asked)])
    for table, rows in vars(found).items():
        context.write(f"ablation/{table}", rows)
    result = ablation.AblationResult(
        pipeline=context.params["pipeline"],
        verdict=verdict(found.points),
        lacking=[
            (place, label, reason)
            for place, params in enumerate(asked)
            for label, reason in params["lacking"]
        ],
        config=context.params["config"],
        **vars(found),
    )
    page = ablation.render(result)
    (context.folder / "ablation.html").write_text(page, encoding="utf-8")
    style.save_png(ablation.figure(result), context.folder / "ablation.png")


def _point(context: BuildContext, place: int, params: Mapping[str, Any]) -> Point:
    if params["failed"]:
        return Point(params["settings"], None, params["failed"])
    curve, law, ranking = (context.each(kind)[str(place)] for kind in ("curve", "law", "ranking"))
    predictions = context.store.table(ranking, "predictions")
    mine = predictions[predictions["predictor"] == params["predictor"]]
    budget, target = int(mine["budget"].max()), params["target"]
    cells = context.store.table(curve, "cells")
    curves = curves_from_cells(cells, params["metric"], params["budget"])
    outcome = Outcome(
        predictor=params["predictor"],
        smallest=int(curves.sizes[0]),
        budget=budget,
        target=target,
        predictions=mine[mine["budget"] == budget],
        transition=Transitions.of_law(context.store.table(law, "fits"), curves, target),
        ats=Transitions.of_ats(curves, AtS(params["gamma"], params["tau"])),
    )
    return Point(params["settings"], outcome)


STAGE = Stage(
    name="ablation",
    version=1,
    tables=("ablation/points", "ablation/candidates", "ablation/keys"),
    plan=Planner("ablation"),
    build=build,
    in_worker=False,
)
