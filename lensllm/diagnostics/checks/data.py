"""LENS301 to LENS307: the data, before anything is trained, as text and as tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lensllm.data.readers import place
from lensllm.data.sources import excerpt
from lensllm.diagnostics.checks.check import Issue, by_candidate, check

Mask = NDArray[np.bool_]
HELD_OUT = ("test", "validation")
CUT_SHARE = 0.1  # the loss is then still that of most examples
TEXT_DIFFERENCE = 0.01  # candidates often differ by a few percent of their loss
_PLAIN_CHAT = "plain chat"
_CHATS = ("chat template", _PLAIN_CHAT)


@dataclass(frozen=True)
class DataEvidence:
    """The data as text, and as every candidate's tokenizer gives it."""

    examples: pd.DataFrame  # dataset/examples with role and rank of sample/roles
    summary: pd.DataFrame  # dataset/summary
    tokens: Mapping[str, pd.DataFrame]  # candidate → tokens/examples, row by row as examples
    readings: Mapping[str, Mapping[str, str]]  # candidate → the row of tokens/summary
    budget: int  # most examples trained on
    max_tokens: int

    @property
    def used(self) -> Mask:
        """(N,) which examples a sweep can meet: held out, or within the budget."""
        spare = (self.examples["role"] == "train") & (self.examples["rank"] >= self.budget)
        return (self.examples["role"].ne("") & ~spare).to_numpy()

    @property
    def tested(self) -> Mask:
        """(N,) which examples are tested on."""
        return (self.examples["role"] == "test").to_numpy()

    def cut(self, column: str = "truncated") -> dict[str, Mask]:
        """By candidate, (N,) which examples are cut, or have their target cut."""
        return {name: rows[column].to_numpy(dtype=bool) for name, rows in self.tokens.items()}

    def example(self, mask: Mask) -> tuple[str, str]:
        """Place and excerpt of the first example of ``mask``, a test example if there is one."""
        chosen = mask & self.tested if (mask & self.tested).any() else mask
        row = self.examples.iloc[int(chosen.argmax())]
        return place(row["file"], int(row["number"])), excerpt(row["prompt"] or row["completion"])


@check(
    "LENS301",
    "Targets are cut",
    tip="raise data.max_tokens, of which a completion has half, or bring shorter ones",
    passed="Fewer than a tenth of the targets are cut",
    not_applicable="no candidate's tokens are known yet",
)
def cut_targets(evidence: DataEvidence) -> list[Issue] | None:
    """Candidates for which a tenth or more of the targets lose their end."""
    used, details = evidence.used, {}
    any_cut = np.zeros(len(used), dtype=bool)
    for name, cut in evidence.cut("target_truncated").items():
        if (count := int((cut & used).sum())) >= CUT_SHARE * used.sum():
            share = "all" if count == used.sum() else f"{count / used.sum():.0%}"
            details[name] = f"{share} of {used.sum():,}"
            any_cut |= cut & used
    example = evidence.example(any_cut) if details else ("", "")
    claim = f"Targets are cut at {evidence.max_tokens} tokens an example"
    return by_candidate(claim, details, example) if evidence.tokens else None


@check(
    "LENS302",
    "Rows that are no example",
    tip="fill them in or take them out, if they are more than a few",
    passed="Every row is an example",
    not_applicable="no rows were read",
)
def rows_without_example(evidence: DataEvidence) -> list[Issue] | None:
    """Sets with empty targets, or chats that do not end with an answer."""
    if evidence.summary.empty:
        return None
    found = []
    for row in evidence.summary.to_dict("records"):
        if row["unfit"]:
            which = f" of the {row['split']} set" if row["split"] else ""
            text = (
                f"{row['unfit']:,} of {row['rows']:,} rows{which} are no example and are "
                f"left out, the first because {row['unfit_reason']}"
            )
            found.append(Issue(text, place=row["unfit_place"]))
    return found


@check(
    "LENS303",
    "Training examples in the test set",
    tip="make sure that the test set is what will be asked, and not what was",
    passed="No example that is trained on is held out as well",
    not_applicable="no example is held out",
)
def leaked_examples(evidence: DataEvidence) -> list[Issue] | None:
    """Examples of a given test or validation set that were among the others, and near copies."""
    held_out = evidence.examples["role"].isin(HELD_OUT).to_numpy()
    if not held_out.any():
        return None
    return [*_equal(evidence), *_nearly_equal(evidence, held_out)]


def _equal(evidence: DataEvidence) -> list[Issue]:
    found = []
    for row in evidence.summary.to_dict("records"):
        if row["shared"]:
            where, _, text = row["shared_place"].partition(", ")
            words = (
                f"{row['shared']:,} of {row['rows']:,} rows of the {row['split'] or 'train'} set "
                "are in a set held out as well, and are left out of it"
            )
            found.append(Issue(words, "", where, text.strip("“”")))
    return found


def _nearly_equal(evidence: DataEvidence, held_out: Mask) -> list[Issue]:
    """Examples that differ in case or white space alone."""

    def plain(text: str) -> str:
        return " ".join(text.casefold().split())

    examples = evidence.examples
    parts = [examples[name].map(plain) for name in ("prompt", "messages", "completion")]
    keys = pd.util.hash_pandas_object(pd.concat(parts, axis=1), index=False)
    trained = (examples["role"] == "train").to_numpy()
    copies = held_out & keys.isin(keys[trained]).to_numpy()
    if not (count := int(copies.sum())):
        return []
    first = int(np.argmax(copies))
    twin = examples.iloc[int(np.argmax(trained & (keys == keys.iloc[first]).to_numpy()))]
    text = (
        f"{count:,} of {held_out.sum():,} examples held out differ from a training example in "
        f"case or space alone, the first from {place(twin['file'], int(twin['number']))}"
    )
    return [Issue(text, "", *evidence.example(np.arange(len(examples)) == first))]


@check(
    "LENS304",
    "Examples that no candidate sees whole",
    tip="raise data.max_tokens if the answer needs what is cut off",
    passed="Every example is seen whole by some candidate",
    not_applicable="no candidate's tokens are known yet",
)
def examples_cut_for_all(evidence: DataEvidence) -> list[Issue] | None:
    """Examples of the sweep that are cut for every candidate."""
    if not evidence.tokens:
        return None
    cut = np.logical_and.reduce(list(evidence.cut().values())) & evidence.used
    if not cut.any():
        return []
    text = (
        f"{cut.sum():,} of {evidence.used.sum():,} examples are longer than {evidence.max_tokens} "
        "tokens, or have a longer target than half of that, for every candidate: the beginning of "
        "a prompt is cut off, and the end of a target"
    )
    return [Issue(text, "", *evidence.example(cut))]


@check(
    "LENS305",
    "Candidates are tested on different text",
    tip="raise data.max_tokens until all see the same text",
    passed="All candidates are tested on the same text",
    not_applicable="no candidate's tokens are known yet",
)
def different_test_text(evidence: DataEvidence) -> list[Issue] | None:
    """Fires if one candidate is tested on over 1 % more bytes than another."""
    tested = evidence.tested
    kept = {n: rows["target_bytes"].to_numpy()[tested] for n, rows in evidence.tokens.items()}
    whole = sum(len(text.encode()) for text in evidence.examples["completion"][tested])
    if not kept or not whole:
        return None
    shares = {name: sizes.sum() / whole for name, sizes in kept.items()}
    least, most = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
    if shares[most] - shares[least] <= TEXT_DIFFERENCE:
        return []
    widest = np.flatnonzero(tested)[int(np.argmax(kept[most] - kept[least]))]
    text = (
        f"The candidates are tested on different text, from {shares[least]:.0%} of its bytes "
        f"({least}) to {shares[most]:.0%} ({most}), because their tokens are of different length"
    )
    return [Issue(text, "", *evidence.example(np.arange(len(tested)) == widest))]


@check(
    "LENS306",
    "A tokenizer without a padding token",
    tip="leave it so here, where padding carries no loss, and set pad_token to train elsewhere",
    passed="Every tokenizer names a padding token",
    not_applicable="no candidate's tokenizer is known yet",
)
def no_padding_token(evidence: DataEvidence) -> list[Issue] | None:
    """Candidates whose tokenizer names none; one without an end token is refused."""
    details = {
        name: f"ends with {reading['end_token']}"
        for name, reading in evidence.readings.items()
        if not reading["pad_token"]
    }
    claim = "The tokenizer has no padding token"
    return by_candidate(claim, details) if evidence.readings else None


@check(
    "LENS307",
    "Chats without a chat template",
    tip="save a chat_template with its tokenizer if it was trained on one",
    passed="Every candidate reads chats by its own template",
    not_applicable="no candidate reads chats",
)
def no_chat_template(evidence: DataEvidence) -> list[Issue] | None:
    """Candidates that read chats in the plain format."""
    renderings = {name: reading["rendering"] for name, reading in evidence.readings.items()}
    details = {
        name: "“User:”, “Assistant:” and the text below"
        for name, rendering in renderings.items()
        if rendering == _PLAIN_CHAT
    }
    claim = "Chats are written in a plain format"
    return by_candidate(claim, details) if {*renderings.values()} & {*_CHATS} else None
