"""Windows of running text: length, halves, distinct texts, shares."""

from collections import Counter
from itertools import pairwise

import pytest
from transformers import PreTrainedTokenizerFast

from lensllm.core.errors import DataError
from lensllm.data.tokens import windows
from lensllm.models.batch import Example
from lensllm.models.zoo import tokenizer

END = 0


class Numbers:
    """A tokenizer of numbers, so that a window tells where it was cut."""

    eos_token_id = END

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return [int(word) for word in text.split()]


def numbers(first: int, count: int) -> str:
    return " ".join(map(str, range(first, first + count)))


LONG = [numbers(1000 * i, 50) for i in range(1, 21)]


def ids(example: Example) -> list[int]:
    return [*example.prompt, *example.completion]


@pytest.mark.parametrize("length", [2, 7, 50])
def test_windows_are_of_one_length_halved_and_each_from_a_text_of_its_own(length: int):
    found = windows({"a": LONG}, {"a": 1.0}, Numbers(), length, 20, seed=0)
    assert {length // 2} == {len(example.prompt) for example in found}
    assert {length} == {len(example) for example in found}
    assert all(b == a + 1 for example in found for a, b in pairwise(ids(example)))
    assert len({example.prompt[0] // 1000 for example in found}) == 20


def test_windows_are_cut_anywhere_in_a_text():
    starts = [
        w.prompt[0] % 1000 for w in windows({"a": LONG}, {"a": 1.0}, Numbers(), 10, 20, seed=0)
    ]
    assert min(starts) < 10
    assert max(starts) > 30


def test_short_texts_go_on_in_others_behind_an_end():
    short = [numbers(1000 * i, 5) for i in range(1, 61)]
    found = windows({"a": short}, {"a": 1.0}, Numbers(), 12, 20, seed=0)
    texts = [{token // 1000 for token in ids(w) if token != END} for w in found]
    assert all(ids(example).count(END) == 2 for example in found)
    assert all(len(seen) in (2, 3) for seen in texts)  # from the first to the third
    assert sum(map(len, texts)) == len(set.union(*texts))  # none is used twice


def test_kinds_have_their_shares_and_unnamed_ones_none():
    texts = {name: [numbers(first + 100 * i, 10) for i in range(400)]
             for name, first in (("a", 100_000), ("b", 200_000), ("c", 300_000))}  # fmt: skip
    found = windows(texts, {"b": 3.0, "a": 1.0}, Numbers(), 4, 400, seed=0)
    kinds = Counter(example.prompt[0] // 100_000 for example in found)
    assert kinds.keys() == {1, 2}
    assert 260 < kinds[2] < 340


def test_the_same_seed_cuts_the_same_windows():
    def cut(seed: int) -> list[Example]:
        return windows({"a": LONG}, {"a": 1.0}, Numbers(), 10, 8, seed)

    assert cut(0) == cut(0)
    assert cut(0) != cut(1)


def test_too_little_text():
    with pytest.raises(
        DataError, match=r"gives 20 of 21 windows of 10 tokens .* lower kernel\.probes"
    ):
        windows({"a": LONG}, {"a": 1.0}, Numbers(), 10, 21, seed=0)


def test_with_a_real_tokenizer():
    texts = [f"The {word} fox jumps over the lazy dog and on." for word in ("red", "blue", "old")]
    bpe: PreTrainedTokenizerFast = tokenizer.train(texts, vocabulary=300)
    for window in windows({"a": texts}, {"a": 1.0}, bpe, 6, 3, seed=0):
        assert any(bpe.decode(ids(window)) in text for text in texts)
