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
from lensllm.store.artifacts import Recipe, write_table
from tasks.base.roles import labelled, roles
from tasks.base.stage import Step, Work
from tasks.planning.plan import Conclusion

VERSION = 1


@dataclass(frozen=True)
class Tried:
    """A point of the grid, and what came of it."""

    settings: Mapping[str, Any]  # value of every key of the grid
    conclusion: Conclusion | None
    failed: str = ""  # why there is no conclusion
    lacking: tuple[tuple[str, str], ...] = ()  # label and reason of what it had to do without


def step(name: str, points: Sequence[Tried], config: Mapping[str, Any]) -> Step:
    """Of pipeline ``name``, whose own settings are the first point's and, in full, ``config``."""
    params = {
        "pipeline": name,
        "points": [_params(point) for point in points],
        "config": dict(config),
    }
    made = {str(i): point.conclusion for i, point in enumerate(points) if point.conclusion}
    upstream = {
        **roles("curve", {place: done.curve for place, done in made.items()}),
        **roles("law", {place: done.law.ref for place, done in made.items()}),
        **roles("ranking", {place: done.ranking.ref for place, done in made.items()}),
    }
    return Step("ablation", Recipe("ablation", VERSION, params, upstream), in_worker=False)


def _params(point: Tried) -> dict[str, Any]:
    params = {
        "settings": dict(point.settings),
        "failed": point.failed,
        "lacking": [list(entry) for entry in point.lacking],
    }
    if point.conclusion:
        goal = point.conclusion.goal
        params |= goal.curve_params
        params |= {"target": goal.target, "predictor": goal.ranking.predictor}
        params |= {"gamma": goal.law.gamma, "tau": goal.law.tau}
    return params


def build(work: Work) -> None:
    from lensllm.report import ablation, style

    asked = work.params["points"]
    found = compare([_point(work, place, params) for place, params in enumerate(asked)])
    for table, rows in vars(found).items():
        write_table(work.folder, f"ablation/{table}", rows)
    result = ablation.AblationResult(
        pipeline=work.params["pipeline"],
        verdict=verdict(found.points),
        lacking=[
            (place, label, reason)
            for place, params in enumerate(asked)
            for label, reason in params["lacking"]
        ],
        config=work.params["config"],
        **vars(found),
    )
    page = ablation.render(result)
    (work.folder / "ablation.html").write_text(page, encoding="utf-8")
    style.save_png(ablation.figure(result), work.folder / "ablation.png")


def _point(work: Work, place: int, params: Mapping[str, Any]) -> Point:
    if params["failed"]:
        return Point(params["settings"], None, params["failed"])
    curve, law, ranking = (
        labelled(work.upstream, kind)[str(place)] for kind in ("curve", "law", "ranking")
    )
    predictions = work.store.table(ranking, "predictions")
    mine = predictions[predictions["predictor"] == params["predictor"]]
    budget, target = int(mine["budget"].max()), params["target"]
    cells = work.store.table(curve, "cells")
    curves = curves_from_cells(cells, params["metric"], params["budget"])
    outcome = Outcome(
        predictor=params["predictor"],
        smallest=int(curves.sizes[0]),
        budget=budget,
        target=target,
        predictions=mine[mine["budget"] == budget],
        transition=Transitions.of_law(work.store.table(law, "fits"), curves, target),
        ats=Transitions.of_ats(curves, AtS(params["gamma"], params["tau"])),
    )
    return Point(params["settings"], outcome)
