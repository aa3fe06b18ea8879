"""decision: after a round of a sweep with a policy, the candidates dropped and whether to go on.

Key: the round's curves, the candidates still in the race, the decisions before, the policy, and the
predictor that decides with its version, its settings and what it reads. Table: ``decisions``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lensllm.predictors import reads
from lensllm.selection.backtest import asked_predictors
from lensllm.selection.policy import decide, deciding_predictor, no_decisions
from lensllm.store.artifacts import Ref, Store
from tasks.base.goal import Goal, read_question
from tasks.base.stage import Planner, Stage
from tasks.base.step import BuildContext, Cell, Step, labelled, roles
from tasks.base.training import remove_trunk
from tasks.stages import curve


def step(
    goal: Goal,
    budget: int,
    upstream: Mapping[str, Ref],
    racing: Sequence[str],
    earlier: Sequence[Ref],
) -> Step:
    """The decision at ``budget``, by the curves and predictor inputs in ``upstream``."""
    policy_params, inputs = by_policy(goal, upstream)
    params = {**policy_params, "budget": budget, "budgets": [budget], "racing": list(racing)}
    before = roles("decision", dict(enumerate(earlier)))
    return STAGE.step(f"decision at D = {budget:,}", params, {**inputs, **before})


def by_policy(goal: Goal, upstream: Mapping[str, Ref]) -> tuple[dict[str, Any], dict[str, Ref]]:
    """The parameters of a policy's decisions, and the part of ``upstream`` that they read."""
    name = deciding_predictor(goal.policy, goal.ranking.predictor)
    asked = asked_predictors(name, goal.registry)
    params = {
        **goal.curve_params,
        **goal.question_params,
        "reference": name,
        "predictors": goal.predictor_params(dict.fromkeys((name, *asked))),
        "policy": goal.policy,
    }
    kinds = {"curve", *(source for name in asked for source in reads(name))}
    return params, {role: r for role, r in upstream.items() if role.partition(":")[0] in kinds}


def build(context: BuildContext) -> None:
    params = context.params
    curves = curve.read(context).only(params["racing"])
    earlier = read(context.store, list(context.each("decision").values()))
    question = read_question(params, curve.read_predictors(context))
    decision = decide(params["policy"], curves, earlier, question)
    context.write("sweep/decisions", decision.candidates)
    out = decision.candidates.loc[decision.candidates["dropped"] != "", "candidate"]
    _discard_trunks(context, set(out))


def _discard_trunks(context: BuildContext, candidates: set[str]) -> None:
    """Remove the trunks of ``candidates``, which no cell will continue."""
    cells = context.store.manifest(context.upstream["curve"])["upstream"]
    for label, ref in cells.items():
        if Cell.parse(label).candidate in candidates:
            remove_trunk(context.store, Ref(*ref))


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


STAGE = Stage(
    name="decision",
    version=1,
    tables=("sweep/decisions",),
    plan=Planner("round of the sweep"),
    build=build,
    in_worker=False,
    in_report=True,
)
