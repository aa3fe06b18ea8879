"""Examples as token ids, cut by one rule for every candidate, and windows of running text."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lensllm.core import seeds
from lensllm.core.errors import DataError
from lensllm.core.untrusted import is_panic, short
from lensllm.data import chat
from lensllm.data.readers import place
from lensllm.models.batch import Example

_BATCH = 1000  # examples tokenised at a time
_COLUMNS = ["prompt_ids", "completion_ids", "target_bytes", "truncated", "target_truncated"]
Ids = NDArray[np.int32]
Places = NDArray[np.int64]
_Row = tuple[Ids, Ids, int, bool, bool]


@dataclass(frozen=True)
class Limits:
    """The lengths to which examples are cut."""

    longest: int  # tokens in all
    text: bool = False  # running text, whose target may take all of them

    def target(self, begin: int) -> int:
        """Most tokens of a target, its end included, behind ``begin`` that are always there."""
        return self.longest - max(begin, 1) if self.text else self.longest // 2


def tokenise(
    examples: pd.DataFrame, tokenizer: Any, max_tokens: int, *, form: str = "completion"
) -> pd.DataFrame:
    """The table ``tokens/examples``: prompt and completion ids and the bytes of the kept target.

    A completion keeps its first ``max_tokens // 2`` tokens, end-of-text included, running text all
    that fit; a prompt keeps its last tokens up to ``max_tokens`` in all, those next to the
    completion, behind what the tokenizer always begins with.
    """
    limits = Limits(max_tokens, text=form == "text")
    rows = _chats if form == "messages" else _pairs
    try:
        pieces = [
            pd.DataFrame(rows(examples.iloc[i : i + _BATCH], tokenizer, limits), columns=_COLUMNS)
            for i in range(0, len(examples), _BATCH)
        ]
    except BaseException as error:
        if not is_panic(error):
            raise
        raise DataError(
            f"the tokenizer of {tokenizer.name_or_path} gives up ({short(error, 200)}); take "
            "another candidate"
        ) from None
    frame = pd.concat(pieces, ignore_index=True)
    return frame.assign(row=range(len(frame)))


def beginning(tokenizer: Any) -> list[int]:
    """The tokens that a tokenizer puts before every text, such as a beginning-of-text."""
    bare: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer("a")["input_ids"]
    starts = range(len(whole) - len(bare) + 1)
    return next((whole[:i] for i in starts if whole[i : i + len(bare)] == bare), [])


def summary(tokenizer: Any, form: str) -> dict[str, str]:
    """A row of ``tokens/summary``: the form, and the tokens around an example."""
    rendering = form
    if form == "messages":
        rendering = "chat template" if chat.has_template(tokenizer) else "plain chat"
    return {
        "rendering": rendering,
        "beginning": "".join(tokenizer.convert_ids_to_tokens(beginning(tokenizer))),
        "end_token": tokenizer.eos_token,
        "pad_token": tokenizer.pad_token or "",
    }


def select(tokens: pd.DataFrame, rows: Sequence[int]) -> list[Example]:
    """The examples at ``rows``, in that order."""
    pairs = tokens.iloc[list(rows)][["prompt_ids", "completion_ids"]]
    return [Example(p.tolist(), c.tolist()) for p, c in pairs.itertuples(index=False)]


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
        found += itertools.islice(_windows(texts[kind], tokenizer, length, draw), wanted)
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


def _pairs(examples: pd.DataFrame, tokenizer: Any, limits: Limits) -> Iterator[_Row]:
    """Prompt and completion apart: no token is in both."""
    begin, end = beginning(tokenizer), tokenizer.eos_token_id
    texts = examples["completion"].tolist()
    prompts = tokenizer(examples["prompt"].tolist(), add_special_tokens=False)["input_ids"]
    targets = tokenizer(texts, add_special_tokens=False)["input_ids"]
    most = limits.target(len(begin))
    for prompt, target, text in zip(prompts, targets, texts, strict=True):
        completion = [*target, end]
        whole = len(completion) <= most
        kept = text if whole else tokenizer.decode(target[:most])
        yield _row(prompt, completion[:most], len(kept.encode()), whole, begin, tokenizer, limits)


def _chats(examples: pd.DataFrame, tokenizer: Any, limits: Limits) -> Iterator[_Row]:
    """The template's own tokens, up to and with the first one after the answer, its end.

    A template that writes nothing special after the answer gets an end-of-text token there.
    """
    render, always = chat.renderer(tokenizer), beginning(tokenizer)
    templated = chat.has_template(tokenizer)
    special = set(tokenizer.all_special_ids)
    chats = zip(map(json.loads, examples["messages"]), examples["completion"], strict=True)
    texts = render(chats)
    for file, number in zip(examples["file"], examples["number"], strict=True):
        try:
            found = next(texts)
        except DataError as error:
            raise DataError(f"{place(file, number)}: {error}") from None
        ids, starts, ends = _encode(tokenizer, found.text, (found.start, found.end))
        first = int(np.searchsorted(ends, found.start, side="right"))
        last = int(np.searchsorted(starts, found.end, side="left"))
        prompt, begin = ids[:first], always
        if templated:  # which writes its own beginning-of-text
            begin = always if prompt[: len(always)] == always else []
            prompt = prompt[len(begin) :]
        closing = ids[last : last + 1]
        if not special & set(ids[last:]):
            closing = [tokenizer.eos_token_id]
        completion = [*ids[first:last], *closing]
        most = limits.target(len(begin))
        whole = len(completion) <= most
        stop = found.end if whole else min(int(ends[first + most - 1]), found.end)
        size = len(found.text[found.start : stop].encode())
        yield _row(prompt, completion[:most], size, whole, begin, tokenizer, limits)


def _encode(tokenizer: Any, text: str, cuts: tuple[int, int]) -> tuple[list[int], Places, Places]:
    """Ids of the whole text, and where in it each token starts and ends.

    Tokenizers in Python do not say where; they are given the text in pieces, cut at ``cuts``.
    """
    if tokenizer.is_fast:
        whole = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        spans = np.array(whole["offset_mapping"], dtype=np.int64).reshape(-1, 2)
        ends = np.maximum.accumulate(spans[:, 1])
        # Some tokenizers leave white space out of a token's span; it is the token's all the same.
        starts = np.minimum(spans[:, 0], np.concatenate([[0], ends[:-1]]))
        return whole["input_ids"], starts, ends
    ids, places = list[int](), [0]
    for begin, end in itertools.pairwise((0, *cuts, len(text))):
        piece = tokenizer(text[begin:end], add_special_tokens=False)["input_ids"]
        ids += piece
        places += [begin + (end - begin) * i // len(piece) for i in range(1, len(piece) + 1)]
    return ids, np.array(places[:-1]), np.array(places[1:])


def _row(
    prompt: list[int],
    completion: list[int],
    target_bytes: int,
    whole: bool,
    begin: list[int],
    tokenizer: Any,
    limits: Limits,
) -> _Row:
    """Cut the prompt to what is left; without one the target follows a beginning-of-text."""
    room = limits.longest - len(completion) - len(begin)
    start = [*begin, *prompt[-room:]] if room > 0 else begin
    if not start:
        bos = tokenizer.bos_token_id
        start = [tokenizer.eos_token_id if bos is None else bos]
    cut = not whole or len(prompt) > room
    ids = (np.array(side, dtype=np.int32) for side in (start, completion))
    return (*ids, target_bytes, cut, not whole)  # type: ignore[return-value]
