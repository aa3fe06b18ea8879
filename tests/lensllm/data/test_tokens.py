"""Tokens: what is kept, what is cut, and what the cut target weighs in bytes."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensllm.data.tokens import select, tokenise
from lensllm.models import tokenizer

TOKENIZER = tokenizer.train(["the cat sat on the mat and the dog sat too"] * 3, vocabulary=300)
words = st.text(st.sampled_from("the cat sé\n"), min_size=1, max_size=60)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(words, words), min_size=1, max_size=5), st.integers(8, 40))
def test_every_example_fits_and_ends_well(pairs: list[tuple[str, str]], longest: int):
    frame = pd.DataFrame(pairs, columns=["prompt", "completion"])
    table = tokenise(frame, TOKENIZER, longest)
    for row, (prompt, completion) in zip(table.itertuples(), pairs, strict=True):
        assert 1 <= len(row.prompt_ids) <= longest - len(row.completion_ids)
        assert len(row.completion_ids) <= longest // 2
        assert TOKENIZER.decode(prompt and TOKENIZER(prompt)["input_ids"]).endswith(
            TOKENIZER.decode(row.prompt_ids).replace("\ufffd", "")
        )
        if not row.truncated:
            assert completion == TOKENIZER.decode(row.completion_ids[:-1])
            assert TOKENIZER.eos_token_id == row.completion_ids[-1]
            assert len(completion.encode()) == row.target_bytes


def test_a_long_target_keeps_its_start_and_is_counted():
    frame = pd.DataFrame({"prompt": ["the dog"], "completion": ["the cat " * 50]})
    row = tokenise(frame, TOKENIZER, 16).iloc[0]
    assert row["truncated"]
    assert len(row["completion_ids"]) == 8
    assert len(TOKENIZER.decode(row["completion_ids"]).encode()) == row["target_bytes"]


def test_select_keeps_the_order_asked_for():
    frame = pd.DataFrame({"prompt": ["the", "cat"], "completion": ["sat", "dog"]})
    table = tokenise(frame, TOKENIZER, 32)
    two, one = select(table, [1, 0])
    assert TOKENIZER.decode(two.prompt) == "cat"
    assert TOKENIZER.decode(one.prompt) == "the"
    assert pytest.approx(len(one.completion)) == len(table["completion_ids"][0])
