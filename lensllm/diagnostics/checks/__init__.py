"""Numbered checks of a ranking and of the data; docs/checks.md says what they mean.

To add a check: a function with the decorator ``check`` in the module of its subject, its name in
the registry here, a section in the document, a test. A number is never used again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from lensllm.diagnostics.checks import curvature, curves, data, ranking
from lensllm.diagnostics.checks.check import Check, Finding, RankingEvidence
from lensllm.diagnostics.checks.data import DataEvidence

RANKING_CHECKS: Mapping[str, Check[RankingEvidence]] = {
    check.code: check
    for check in (
        ranking.too_few_sizes,
        ranking.far_target,
        ranking.unresolved,
        curves.jumps,
        curves.rises,
        ranking.kernel_at_its_bound,
        ranking.different_tokenizers,
        ranking.sizes_outside_priors,
        ranking.missing_sizes,
        curvature.pre_power_by_bound,
        curvature.sharpening,
        curvature.dominant_layer,
        curvature.out_of_family,
        curvature.vacuous_bound,
        curvature.loss_above_bound,
    )
}
DATA_CHECKS: Mapping[str, Check[DataEvidence]] = {
    check.code: check
    for check in (
        data.cut_targets,
        data.rows_without_example,
        data.leaked_examples,
        data.examples_cut_for_all,
        data.different_test_text,
        data.no_padding_token,
        data.no_chat_template,
    )
}

__all__ = [
    "DATA_CHECKS",
    "RANKING_CHECKS",
    "Check",
    "DataEvidence",
    "Finding",
    "RankingEvidence",
    "check_data",
    "check_ranking",
    "outcomes",
    "versions",
    "with_examples",
]

_COLUMNS = ["code", "title", "candidate", "message"]


def check_ranking(evidence: RankingEvidence) -> pd.DataFrame:
    """Findings about a ranking, in the order of the registry: the table ``checks/findings``."""
    return _findings(RANKING_CHECKS, evidence, _COLUMNS)


def check_data(evidence: DataEvidence) -> pd.DataFrame:
    """Findings about the data, in the order of the registry: the table ``inspection/findings``."""
    return _findings(DATA_CHECKS, evidence, [*_COLUMNS, "place", "excerpt"])


def outcomes(checks: Mapping[str, Check[Any]], evidence: object) -> pd.DataFrame:
    """The outcome of every check and the text that goes with it: the table ``checks/outcomes``."""
    rows = []
    for check in checks.values():
        outcome = check.outcome(evidence)
        texts = {"issue": check.tip, "passed": check.passed}
        text = texts.get(outcome, check.not_applicable)
        rows.append((check.code, check.title, outcome, text))
    return pd.DataFrame(rows, columns=["code", "title", "outcome", "text"], dtype=str)


def versions(checks: Mapping[str, Check[Any]]) -> dict[str, int]:
    """The version of each check by its code: what the key of a stage that asks them holds."""
    return {code: check.version for code, check in checks.items()}


def with_examples(findings: pd.DataFrame) -> pd.DataFrame:
    """inspection/findings as rows of checks/findings, the example at the end of the message."""
    messages = [
        f"{row['message']}{_example(row['place'], row['excerpt'])}"
        for row in findings.to_dict("records")
    ]
    return findings.assign(message=messages)[_COLUMNS]


def _findings(
    checks: Mapping[str, Check[Any]], evidence: object, columns: list[str]
) -> pd.DataFrame:
    found = [finding for check in checks.values() for finding in check.find(evidence)]
    rows = [[getattr(finding, column) for column in columns] for finding in found]
    return pd.DataFrame(rows, columns=columns, dtype=str)


def _example(place: str, excerpt: str) -> str:
    if not place:
        return ""
    return f" For example {place}: “{excerpt}”." if excerpt else f" For example {place}."
