"""decision: after a round of a sweep with a policy, who is dropped and whether to go on.

Key: the round's curves, what else predictors are told, who is still in the race, the decisions
before, and the policy. Table: ``decisions``.
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from lensllm.selection.policy import decide, nobody
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
    params = {
        **goal.curve_params,
        **goal.question_params,
        "budget": budget,
        "budgets": [budget],
        "predictors": [goal.ranking.predictor],
        "policy": goal.policy,
        "racing": list(racing),
    }
    before = roles("decision", {str(i): ref for i, ref in enumerate(earlier)})
    recipe = Recipe("decision", VERSION, params, {**upstream, **before})
    return Step(f"decision at D = {budget:,}", recipe, in_worker=False)


def build(work: Work) -> None:
    params = work.params
    curves = curve.read(work).only(params["racing"])
    earlier = read(work.store, list(labelled(work.upstream, "decision").values()))
    decision = decide(params["policy"], curves, earlier, read_question(params))
    write_table(work.folder, "sweep/decisions", decision.candidates)


def read(store: Store, refs: Sequence[Ref]) -> pd.DataFrame:
    """Decisions of several rounds, one under another."""
    rounds = [store.table(ref, "decisions") for ref in refs]
    return pd.concat(rounds, ignore_index=True) if rounds else nobody()


def of(store: Store, upstream: Mapping[str, Ref]) -> pd.DataFrame:
    """What a policy decided, round after round, really or played on a table; no rows without."""
    if "simulation" in upstream:
        return store.table(upstream["simulation"], "decisions")
    return read(store, list(labelled(upstream, "decision").values()))
