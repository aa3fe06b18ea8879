"""Data in which no check finds anything; tests spoil one thing each."""

import pandas as pd
import pytest

from lensllm.diagnostics.checks.data import Context
from lensllm.store.schemas import schema

ROLES = ["test"] * 10 + ["validation"] * 5 + ["train"] * 25


@pytest.fixture
def clean() -> Context:
    """40 examples of 10 bytes, of which the last 5 are beyond the budget; three candidates."""
    count = len(ROLES)
    examples = pd.DataFrame(
        {
            "prompt": [f"question {i}" for i in range(count)],
            "completion": [f"answer {i:03}" for i in range(count)],
            "messages": "",
            "file": "rows.jsonl",
            "number": range(1, count + 1),
            "role": ROLES,
            "rank": [*range(10), *range(5), *range(25)],
        }
    )
    summary = pd.DataFrame(
        [["", "completion", 40, 40, 40, 0, "", "", 0, ""]], columns=schema("dataset/summary").names
    )
    tokens = pd.DataFrame(
        {"target_bytes": [10] * count, "truncated": False, "target_truncated": False}
    )
    reading = {"rendering": "completion", "beginning": "", "end_token": "</s>", "pad_token": "<p>"}
    return Context(
        examples=examples,
        summary=summary,
        tokens={name: tokens.copy() for name in "abc"},
        readings={name: dict(reading) for name in "abc"},
        budget=20,
        max_tokens=64,
    )
