"""Examples as token ids, once per tokenizer, cut by one rule for every candidate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import pandas as pd

from lensllm.models.batch import Example


def tokenise(examples: pd.DataFrame, tokenizer: Any, max_tokens: int) -> pd.DataFrame:
    """The table ``tokens/examples``: prompt and completion ids and the bytes of the kept target.

    A completion keeps its first ``max_tokens // 2`` tokens, end-of-text included; a prompt keeps
    its last tokens up to ``max_tokens`` in all, those next to the completion.
    """
    keep = max_tokens // 2

    def encode(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
        prompts = tokenizer(batch["prompt"], add_special_tokens=False)["input_ids"]
        targets = tokenizer(batch["completion"], add_special_tokens=False)["input_ids"]
        return _cut(prompts, targets, batch["completion"], tokenizer, keep, max_tokens)

    columns = datasets.Dataset.from_pandas(examples[["prompt", "completion"]])
    encoded = columns.map(encode, batched=True, remove_columns=columns.column_names)
    frame: pd.DataFrame = encoded.to_pandas()
    return frame.assign(row=range(len(frame)))


def _cut(
    prompts: list[list[int]],
    targets: list[list[int]],
    texts: list[str],
    tokenizer: Any,
    keep: int,
    max_tokens: int,
) -> dict[str, list[Any]]:
    rows: dict[str, list[Any]] = {
        name: [] for name in ("prompt_ids", "completion_ids", "target_bytes", "truncated")
    }
    for prompt, target, text in zip(prompts, targets, texts, strict=True):
        completion = [*target, tokenizer.eos_token_id]
        whole = len(completion) <= keep
        kept = text if whole else tokenizer.decode(target[:keep])
        start = prompt[-(max_tokens - min(len(completion), keep)) :]
        rows["prompt_ids"].append(start or [tokenizer.eos_token_id])
        rows["completion_ids"].append(completion[:keep])
        rows["target_bytes"].append(len(kept.encode()))
        rows["truncated"].append(not whole or len(start) < len(prompt))
    return rows


def select(tokens: pd.DataFrame, rows: Sequence[int]) -> list[Example]:
    """The examples at ``rows``, in that order."""
    chosen = tokens.iloc[list(rows)]
    return [
        Example(prompt.tolist(), completion.tolist())
        for prompt, completion in zip(chosen["prompt_ids"], chosen["completion_ids"], strict=True)
    ]
