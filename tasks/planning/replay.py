"""The ranking of a replay: its table stands where a pipeline's curves stand."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from lensllm.config.sections import Replay, public
from lensllm.core.errors import DataError
from lensllm.curves.curve import thin_sizes
from lensllm.predictors import check_name, needed_sizes
from lensllm.store.artifacts import Ref, Store
from tasks.base.goal import Goal, configured
from tasks.base.plan import RankingPlan
from tasks.base.step import Step, roles
from tasks.planning.make import make
from tasks.planning.plan import find_past
from tasks.stages import STAGES, losses, simulation

_FEWEST_SIZES = 3  # the least that anything is extrapolated from
_BACKTESTED_SIZES = 5  # the least of which some can be predicted from the others
_SAVING = 8  # a budget is to be this much smaller than the target, unless the user says otherwise


def name_of(settings: Replay) -> str:
    """The name of a table's replay in reports, MLflow and the Prefect pages."""
    return "replay-" + re.sub(r"[^\w.\-]+", "-", Path(settings.table).stem)


def check(settings: Replay, store: Store) -> None:
    """Raise ``LensError`` for what is wrong before a server starts. Makes the table to see it."""
    check_name(settings.ranking.predictor, "--predictor")
    table = losses.step(settings.table)
    make(store.root, table.recipe, table.hints)
    goal(settings, store, table.ref)


def goal(settings: Replay, store: Store, table: Ref) -> Goal:
    """The goal of a replay. Raises ``DataError`` where it cannot answer."""
    cells = store.table(table, "cells")
    notes = store.table(table, "notes").set_index("kind")["text"]
    sizes = sorted(int(size) for size in cells["size"].unique() if size > 0)
    target = settings.target or sizes[-1]
    budget = _budget(settings, sizes, target)
    known, predictor = [s for s in sizes if s <= budget], settings.ranking.predictor
    needed = needed_sizes(predictor, configured(settings.law))
    if len(known) < needed:
        raise DataError(
            f"--predictor {predictor} needs {needed} sizes and there are {len(known)} up to the "
            f"budget {budget:,}: choose another, or raise the budget"
        )
    budgets = _smaller(sizes, budget) if settings.all_budgets else []
    chosen = settings.ranking.model_copy(update={"metric": notes["metric"]})
    return Goal(
        name=name_of(settings),
        target=target,
        budgets=tuple(sorted({*budgets, budget})),
        ranking=chosen,
        law=settings.law,
        seed=settings.seed,
        policy=settings.policy,
        settings=public(settings),
    )


def plan_ranking(goal: Goal, store: Store, table: Ref) -> RankingPlan:
    """The ranking of a ``table``; with a policy, of what its play would have trained."""
    earlier = find_past(store, table) if goal.ranking.prior == "store" else {}
    given: dict[str, dict[str, Ref]] = {
        "curve": {"": table},
        "losses": {"": table},
        "past": earlier,
    }
    first: tuple[Step, ...] = ()
    if goal.policy != "all":
        played = simulation.step(goal, {"curve": table, **roles("past", earlier)})
        given |= {"curve": {"": played.ref}, "simulation": {"": played.ref}}
        first = (played,)
    return RankingPlan(STAGES, goal, given, first=first)


def _budget(settings: Replay, sizes: list[int], target: int) -> int:
    """The largest size to be known, as the user says or an eighth of the target."""
    below = [size for size in sizes if size < target]
    if settings.budget is None:
        usual = [size for size in below if size * _SAVING <= target]
        known = usual if len(usual) >= _FEWEST_SIZES else below
    elif settings.budget >= target:
        raise DataError(
            f"--budget {settings.budget:,} is not below the target {target:,}: nothing is left to "
            "predict; lower the budget or raise --target"
        )
    else:
        known = [size for size in below if size <= settings.budget]
    if len(known) < _FEWEST_SIZES:
        limit = f"budget {settings.budget:,}" if settings.budget else f"target {target:,}"
        raise DataError(
            f"{settings.table}: the {limit} leaves {len(known)} of the sizes "
            f"{_listed(sizes)} and a curve needs {_FEWEST_SIZES}: raise it, or add sizes"
        )
    return known[-1]


def _smaller(sizes: list[int], budget: int) -> list[int]:
    """Budgets that have a backtest, up to ``budget``; of a fine grid those that are read."""
    read = thin_sizes(np.array([size for size in sizes if size <= budget], dtype=float))
    return [int(size) for size in read[_BACKTESTED_SIZES - 1 :]]


def _listed(sizes: list[int]) -> str:
    shown = [f"{size:,}" for size in sizes]
    return ", ".join(shown if len(shown) <= 8 else [*shown[:3], "…", *shown[-2:]])
