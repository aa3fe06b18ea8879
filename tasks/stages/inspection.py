"""inspection: numbered findings about the data, before anything is trained.

Key: data set, first sample, the candidates' tokens, the budget, and the version of every check.
Tables: ``findings``, ``outcomes``.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from lensllm.config.sections import Pipeline
from lensllm.diagnostics.checks import (
    DATA_CHECKS,
    DataEvidence,
    check_data,
    outcomes,
    versions,
    with_examples,
)
from lensllm.store.artifacts import Recipe, Ref, Store, write_table
from tasks.base.roles import labelled, roles
from tasks.base.stage import Step, Work

VERSION = 1
_SIZES = ["target_bytes", "truncated", "target_truncated"]
_TEXTS = ["prompt", "completion", "messages", "file", "number"]


def step(config: Pipeline, dataset: Ref, sample: Ref, tokens: Mapping[str, Ref]) -> Step:
    """The inspection of the data by the ``tokens`` that exist, by candidate."""
    params = {
        "budget": config.sweep.max,
        "max_tokens": config.data.max_tokens,
        "checks": versions(DATA_CHECKS),
    }
    upstream = {"dataset": dataset, "sample": sample, **roles("tokens", tokens)}
    recipe = Recipe("inspection", VERSION, params, upstream)
    return Step("inspection of the data", recipe, in_worker=False)


def build(work: Work) -> None:
    store, dataset = work.store, work.upstream["dataset"]
    roles = store.table(work.upstream["sample"], "roles").set_index("row")[["role", "rank"]]
    examples = store.table(dataset, "examples", _TEXTS).join(roles)
    tokens = labelled(work.upstream, "tokens")
    sizes = {ref: store.table(ref, "examples", _SIZES) for ref in set(tokens.values())}
    evidence = DataEvidence(
        examples=examples.fillna({"role": "", "rank": -1}),
        summary=store.table(dataset, "summary"),
        tokens={name: sizes[ref] for name, ref in tokens.items()},
        readings={name: _reading(store, ref) for name, ref in tokens.items()},
        budget=work.params["budget"],
        max_tokens=work.params["max_tokens"],
    )
    write_table(work.folder, "inspection/findings", check_data(evidence))
    write_table(work.folder, "inspection/outcomes", outcomes(DATA_CHECKS, evidence))


def _reading(store: Store, ref: Ref) -> dict[Any, Any]:
    row: pd.Series = store.table(ref, "summary").iloc[0]
    return row.to_dict()


def remark(store: Store, ref: Ref) -> str:
    """The codes of the checks that found something."""
    return ", ".join(dict.fromkeys(store.table(ref, "findings")["code"]))


def findings(store: Store, ref: Ref) -> list[tuple[str, str]]:
    """Codes and sentences for people, each with its example."""
    table = with_examples(store.table(ref, "findings"))
    return list(zip(table["code"], table["message"], strict=True))
