"""Numbered checks of a ranking and of the data; docs/checks.md says what they mean.

To add a check: a function with the decorator ``check`` in the module of its subject, a section in
the document, a test. A number is never used again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from lensllm.diagnostics.checks import curvature, curves, data, ranking
from lensllm.diagnostics.checks.check import Check, Finding, RankingEvidence
from lensllm.diagnostics.checks.data import DataEvidence


def _registry(*modules: Any) -> dict[str, Check]:
    """The checks of ``modules`` by code, in ascending order."""
    found = [value for module in modules for value in vars(module).values()]
    checks = [value for value in found if isinstance(value, Check)]
    return {check.code: check for check in sorted(checks, key=lambda check: check.code)}


RANKING_CHECKS = _registry(ranking, curves, curvature)
DATA_CHECKS = _registry(data)

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


def outcomes(checks: Mapping[str, Check], evidence: object) -> pd.DataFrame:
    """The outcome of every check and the text that goes with it: the table ``checks/outcomes``."""
    rows = []
    for check in checks.values():
        outcome = check.outcome(evidence)
        texts = {"issue": check.tip, "passed": check.passed, "not applicable": check.not_applicable}
        rows.append((check.code, check.title, outcome, texts[outcome]))
    return pd.DataFrame(rows, columns=["code", "title", "outcome", "text"], dtype=str)


def versions(checks: Mapping[str, Check]) -> dict[str, int]:
    """The version of each check by its code, for the key of a stage that asks them."""
    return {code: check.version for code, check in checks.items()}


def with_examples(findings: pd.DataFrame) -> pd.DataFrame:
    """inspection/findings as rows of checks/findings, the example at the end of the message."""
    messages = []
    for message, place, excerpt in findings[["message", "place", "excerpt"]].to_numpy():
        example = f"{place}: “{excerpt}”" if excerpt else place
        messages.append(f"{message} For example {example}." if place else message)
    return findings.assign(message=messages)[_COLUMNS]


def _findings(checks: Mapping[str, Check], evidence: object, columns: list[str]) -> pd.DataFrame:
    found = [vars(finding) for check in checks.values() for finding in check.find(evidence)]
    return pd.DataFrame(found, columns=columns, dtype=str)
