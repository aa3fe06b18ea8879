"""inspection: numbered findings about the data, before anything is trained.

Key: data set, first sample, the candidates' tokens, the budget, and the version of every check.
Tables: ``findings``, ``outcomes``.
"""

from typing import Any

import pandas as pd

from lensllm.diagnostics.checks import (
    DATA_CHECKS,
    DataEvidence,
    check_data,
    outcomes,
    versions,
    with_examples,
)
from lensllm.store.artifacts import Ref, Store
from tasks.base.plan import Plan, per_ranking
from tasks.base.stage import Stage
from tasks.base.step import BuildContext, Step, roles

_SIZES = ["target_bytes", "truncated", "target_truncated"]
_TEXTS = ["prompt", "completion", "messages", "file", "number"]


def step(plan: Plan) -> Step:
    """The step of the data under those tokenizers whose tokens are in the store."""
    params = {
        "budget": plan.config.sweep.max,
        "max_tokens": plan.config.data.max_tokens,
        "checks": versions(DATA_CHECKS),
    }
    upstream = {"dataset": plan["dataset"][""].ref, "sample": plan["sample"][0].ref}
    upstream |= roles("tokens", plan.present("tokens"))
    return STAGE.step("inspection of the data", params, upstream)


def build(context: BuildContext) -> None:
    store, dataset = context.store, context.upstream["dataset"]
    splits = context.table("sample", "roles").set_index("row")[["role", "rank"]]
    examples = store.table(dataset, "examples", _TEXTS).join(splits)
    tokens = context.each("tokens")
    sizes = {ref: store.table(ref, "examples", _SIZES) for ref in set(tokens.values())}
    evidence = DataEvidence(
        examples=examples.fillna({"role": "", "rank": -1}),
        summary=store.table(dataset, "summary"),
        tokens={name: sizes[ref] for name, ref in tokens.items()},
        readings={name: _reading(store, ref) for name, ref in tokens.items()},
        budget=context.params["budget"],
        max_tokens=context.params["max_tokens"],
    )
    context.write("inspection/findings", check_data(evidence))
    context.write("inspection/outcomes", outcomes(DATA_CHECKS, evidence))


def _reading(store: Store, ref: Ref) -> dict[Any, Any]:
    row: pd.Series = store.table(ref, "summary").iloc[0]
    return row.to_dict()


def note(store: Store, ref: Ref) -> str:
    """The codes of the checks that found something."""
    return ", ".join(dict.fromkeys(store.table(ref, "findings")["code"]))


def findings(store: Store, ref: Ref) -> list[tuple[str, str]]:
    """Codes and sentences for people, each with its example."""
    table = with_examples(store.table(ref, "findings"))
    return list(zip(table["code"], table["message"], strict=True))


STAGE = Stage(
    name="inspection",
    version=1,
    tables=("inspection/findings", "inspection/outcomes"),
    plan=per_ranking(lambda ranking: step(ranking.sweep) if ranking.sweep else None),
    build=build,
    in_worker=False,
    note=note,
    in_report=True,
)
