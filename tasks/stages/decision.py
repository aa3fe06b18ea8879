"""decision: after a round of a sweep with a policy, the candidates dropped and whether to go on.

Key: the round's curves, the candidates still in the race, the decisions before, the policy, and the
predictor that decides with its version, its settings and what it reads. Table: ``decisions``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lensllm.selection.backtest import asked_predictors
from lensllm.selection.policy import decide, deciding_predictor, no_decisions
from lensllm.store.artifacts import Recipe, Ref, Store, write_table
from tasks.base.goal import Goal, read_question
from tasks.base.roles import labelled, roles
from tasks.base.stage import Step, Work
from tasks.stages import curve

VERSION = 1


def step(
    goal: Goal,
    budget: int,
    upstream: Mapping[str, Ref],
    racing: Sequence[str],
    earlier: Sequence[Ref],
) -> Step:
    """``upstream`` has curve, and kernel:…, heavy_tails:…, past:… by label."""
    decided, inputs = by_policy(goal, upstream)
    params = {**decided, "budget": budget, "budgets": [budget], "racing": list(racing)}
    before = roles("decision", {str(i): ref for i, ref in enumerate(earlier)})
    recipe = Recipe("decision", VERSION, params, {**inputs, **before})
    return Step(f"decision at D = {budget:,}", recipe, in_worker=False)


def by_policy(goal: Goal, upstream: Mapping[str, Ref]) -> tuple[dict[str, Any], dict[str, Ref]]:
    """The parameters of a policy's decisions, and the part of ``upstream`` that they read.

    Both name the one predictor that decides, and those that it asks.
    """
    name = deciding_predictor(goal.policy, goal.ranking.predictor)
    asked = asked_predictors(name, goal.registry)
    params = {
        **goal.curve_params,
        **goal.question_params,
        "reference": name,
        "predictors": goal.predictor_params(dict.fromkeys((name, *asked))),
        "policy": goal.policy,
    }
    return params, curve.predictor_inputs(upstream, asked)


def build(work: Work) -> None:
    params = work.params
    curves = curve.read(work).only(params["racing"])
    earlier = read(work.store, list(labelled(work.upstream, "decision").values()))
    question = read_question(params, curve.read_predictors(work))
    decision = decide(params["policy"], curves, earlier, question)
    write_table(work.folder, "sweep/decisions", decision.candidates)


def read(store: Store, refs: Sequence[Ref]) -> pd.DataFrame:
    """Decisions of several rounds, one under another."""
    rounds = [store.table(ref, "decisions") for ref in refs]
    return pd.concat(rounds, ignore_index=True) if rounds else no_decisions()


def of(store: Store, upstream: Mapping[str, Ref]) -> pd.DataFrame:
    """The decisions of a policy, of a sweep or of a simulation; no rows without a policy."""
    if "simulation" in upstream:
        return store.table(upstream["simulation"], "decisions")
    return read(store, list(labelled(upstream, "decision").values()))


def dropped(store: Store, upstream: Mapping[str, Ref]) -> set[str]:
    """The candidates that a policy has dropped."""
    decisions = of(store, upstream)
    return set(decisions.loc[decisions["dropped"] != "", "candidate"])
