"""Tokens: what is kept, what is cut, and what the cut target weighs in bytes."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

from lensllm.core.errors import DataError
from lensllm.data.tokens import select, summary, tokenise
from lensllm.models.zoo import tokenizer
from tests.lensllm.data import templates

TOKENIZER = tokenizer.train(["the cat sat on the mat and the dog sat too"] * 3, vocabulary=300)
words = st.text(st.sampled_from("the cat sé\n"), min_size=1, max_size=60)


@settings(max_examples=25)
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


def test_what_a_tokenizer_always_begins_with_is_kept_and_counted():
    llama = templates.byte_level(begins=True)
    frame = pd.DataFrame({"prompt": ["the cat " * 30], "completion": ["sat"]})
    row = tokenise(frame, llama, 20).iloc[0]
    assert row["prompt_ids"][0] == llama.bos_token_id
    assert len(row["prompt_ids"]) + len(row["completion_ids"]) == 20
    assert (row["truncated"], row["target_truncated"]) == (True, False)
    assert llama.decode(row["prompt_ids"][1:]).endswith("the cat ")


@pytest.mark.parametrize("begins", [False, True])
def test_running_text_follows_a_beginning_and_may_fill_all_tokens(begins: bool):
    made = templates.byte_level(begins=begins)
    frame = pd.DataFrame({"prompt": ["", ""], "completion": ["the cat", "the cat " * 30]})
    short, long = (row for _, row in tokenise(frame, made, 20, form="text").iterrows())
    assert [*short["prompt_ids"]] == [made.bos_token_id]
    assert made.decode(short["completion_ids"][:-1]) == "the cat"
    assert short["completion_ids"][-1] == made.eos_token_id
    assert len(long["completion_ids"]) == 19
    assert long["target_bytes"] == len(made.decode(long["completion_ids"]).encode())
    assert long["target_truncated"]


def test_how_a_tokenizer_reads_is_recorded():
    llama = templates.byte_level(templates.LLAMA, begins=True)
    assert summary(llama, "messages") == {
        "rendering": "chat template",
        "beginning": "<s>",
        "end_token": tokenizer.END_OF_TEXT,
        "pad_token": tokenizer.END_OF_TEXT,
    }
    plain = templates.byte_level()
    plain.pad_token = None
    assert summary(plain, "messages")["rendering"] == "plain chat"
    assert summary(plain, "text") == {
        "rendering": "text", "beginning": "", "end_token": tokenizer.END_OF_TEXT, "pad_token": "",
    }  # fmt: skip


def test_a_regular_expression_that_gives_up_is_a_sentence():
    """Its library panics, which in Python is no Exception."""
    slow = templates.byte_level()
    slow.backend_tokenizer.pre_tokenizer = Split(Regex("(a+)+$"), "isolated")
    frame = pd.DataFrame({"prompt": ["a" * 50 + "!"], "completion": ["b"]})
    with pytest.raises(DataError, match=r"the tokenizer of .* gives up \(.*retry-limit-in-match"):
        tokenise(frame, slow, 16)
