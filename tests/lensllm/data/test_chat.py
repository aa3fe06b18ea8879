"""Chats: what a model reads is its template's own rendering, and the target is the answer's text."""

import json
from collections.abc import Sequence

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensllm.core.errors import DataError
from lensllm.data import chat
from lensllm.data.tokens import tokenise
from tests.lensllm.data.templates import GEMMA, TOKENIZERS, byte_level

USER = {"role": "user", "content": "the cat?"}
words = st.text(st.sampled_from("the cat sé🦀\n:"), min_size=1, max_size=20)
answers = words.filter(lambda t: bool(t.strip()))


def one(tokenizer, turns: Sequence[dict[str, str]], answer: str, longest: int = 400) -> pd.Series:
    frame = pd.DataFrame(
        {"prompt": "", "completion": [answer], "messages": json.dumps(turns)}
    ).assign(file="chats.jsonl", number=7)
    return tokenise(frame, tokenizer, longest, form="messages").iloc[0]


def whole(tokenizer, turns: Sequence[dict[str, str]], answer: str) -> list[int]:
    """The template's own tokens of the whole chat."""
    return tokenizer.apply_chat_template(
        [*turns, {"role": "assistant", "content": answer}],
        tokenize=True,
        return_dict=False,
        date_string="01 Jan 2025",
    )


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=40)
@given(st.lists(st.tuples(answers, answers), max_size=2), answers, answers)
def test_prompt_and_completion_are_the_templates_own_tokens(name, before, question, answer):
    """Up to and with the first token after the answer, where the end of the turn stands."""
    tokenizer = TOKENIZERS[name]
    turns = [
        {"role": role, "content": text}
        for pair in before
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    turns.append({"role": "user", "content": question})
    expected = whole(tokenizer, turns, answer)
    row = one(tokenizer, turns, answer)
    ids = [*row["prompt_ids"], *row["completion_ids"]]
    if "bare" in name:  # nothing special stands behind the answer
        assert ids[-1] == tokenizer.eos_token_id
        ids = ids[:-1]
    assert ids == expected[: len(ids)]
    said = tokenizer.decode(row["completion_ids"][:-1])
    assert tokenizer.decode(expected[len(ids) :]).strip() == ""  # only markup is left
    if name != "metaspace":  # whose unknown characters have no way back
        stripped = answer.strip() if name in ("llama", "gemma") else answer
        assert said.strip() == stripped.strip()
        assert len(stripped.encode()) == row["target_bytes"]
    assert not row["truncated"]


def test_a_beginning_of_text_is_never_doubled():
    for name in ("llama", "gemma"):
        tokenizer = TOKENIZERS[name]
        row = one(tokenizer, [USER], "Hi!")
        assert [*row["prompt_ids"]].count(tokenizer.bos_token_id) == 1
        assert row["prompt_ids"][0] == tokenizer.bos_token_id
    plain = byte_level(None, begins=True)
    row = one(plain, [USER], "Hi!")
    assert [*row["prompt_ids"]].count(plain.bos_token_id) == 1


def test_a_long_chat_keeps_its_beginning_of_text_and_its_last_words():
    tokenizer = TOKENIZERS["llama"]
    full = one(tokenizer, [{**USER, "content": "the cat " * 50}], "Hi!")
    cut = one(tokenizer, [{**USER, "content": "the cat " * 50}], "Hi!", longest=40)
    assert len(cut["prompt_ids"]) + len(cut["completion_ids"]) == 40
    assert cut["prompt_ids"][0] == tokenizer.bos_token_id
    assert [*cut["prompt_ids"][1:]] == [*full["prompt_ids"][-len(cut["prompt_ids"]) + 1 :]]
    assert (cut["truncated"], cut["target_truncated"]) == (True, False)


def test_a_long_answer_counts_the_bytes_that_are_left():
    tokenizer = TOKENIZERS["chatml"]
    row = one(tokenizer, [USER], "the cat 🦀 " * 50, longest=40)
    assert len(row["completion_ids"]) == 20
    assert row["target_truncated"]
    said = tokenizer.decode(row["completion_ids"])
    assert row["target_bytes"] == pytest.approx(len(said.rstrip("\ufffd").encode()), abs=4)


def test_without_a_template_a_chat_is_plain_text():
    tokenizer = byte_level(None)
    turns = [{"role": "system", "content": "Be a cat."}, USER]
    row = one(tokenizer, turns, "Hi!")
    assert tokenizer.decode(row["prompt_ids"]) == (
        "System:\nBe a cat.\n\nUser:\nthe cat?\n\nAssistant:\n"
    )
    assert tokenizer.decode(row["completion_ids"]) == "Hi!" + tokenizer.eos_token
    assert row["target_bytes"] == 3


def test_a_template_without_a_system_turn_has_it_before_the_users_words():
    turns = [{"role": "system", "content": "Be a cat."}, USER]
    text = next(chat.renderer(TOKENIZERS["gemma"])([(turns, "Hi!")])).text
    assert "user\nBe a cat.\n\nthe cat?<|im_end|>" in text


def test_a_rendering_does_not_depend_on_the_day():
    tokenizer = byte_level("{{ strftime_now('%d %b %Y') }}{% for m in messages %}"
                           "{{ m['content'] }}{% endfor %}")  # fmt: skip
    assert next(chat.renderer(tokenizer)([([], "Hi!")])).text == "01 Jan 2025Hi!"


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        (GEMMA, "line 7 of chats.jsonl: its chat template refuses it: .*roles must alternate"),
        ("{{ messages[0]['content'] }}", "does not write the assistant's last message"),
        (
            "{% for m in messages %}{{ m['content'] }}{% endfor %}{{ messages[-1]['content'] }}",
            "changes what stands around",
        ),
        ("{% for m in messages", "its chat template refuses it"),
    ],
)
def test_a_template_that_cannot_be_used_is_a_sentence(template: str, sentence: str):
    with pytest.raises(DataError, match=sentence):
        one(byte_level(template), [USER, USER], "Hi!")
