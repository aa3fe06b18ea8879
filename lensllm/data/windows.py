"""Pieces of running text as examples, each cut from a text of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from lensllm.core import seeds
from lensllm.core.errors import DataError
from lensllm.models.batch import Example


def windows(
    texts: Mapping[str, Sequence[str]],
    shares: Mapping[str, float],
    tokenizer: Any,
    length: int,
    count: int,
    seed: int,
) -> list[Example]:
    """``count`` windows of ``length`` tokens: the first half is the prompt, the rest is predicted.

    Each is cut from a text of its own, anywhere in it. A text that is too short goes on in others,
    as when texts are packed for pretraining.

    Args:
        texts: by kind.
        shares: how likely a window is of each kind, up to a factor.
        length: at least 2.

    Raises:
        DataError: the texts are too few.
    """
    draw = seeds.generator(seed, "pretraining text")
    kinds = sorted(shares)
    weights = np.array([shares[kind] for kind in kinds])
    drawn = draw.choice(len(kinds), count, p=weights / weights.sum())
    found: list[Example] = []
    for kind, wanted in zip(kinds, np.bincount(drawn, minlength=len(kinds)), strict=True):
        found += islice(_windows(texts[kind], tokenizer, length, draw), wanted)
    if len(found) < count:
        raise DataError(
            f"the pretraining text gives {len(found)} of {count} windows of {length} tokens with "
            f"texts of their own; bring more text (kernel.pretraining_text) or lower kernel.probes"
        )
    return found


def _windows(
    texts: Sequence[str], tokenizer: Any, length: int, draw: np.random.Generator
) -> Iterator[Example]:
    ids: list[int] = []
    for i in draw.permutation(len(texts)):
        ids += tokenizer.encode(texts[i], add_special_tokens=False)
        if len(ids) < length:
            ids.append(tokenizer.eos_token_id)
            continue
        start = int(draw.integers(len(ids) - length + 1))
        middle, stop = start + length // 2, start + length
        yield Example(ids[start:middle], ids[middle:stop])
        ids = []
