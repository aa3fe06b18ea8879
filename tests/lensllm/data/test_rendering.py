"""Chat templates that loop or write without end: the process that renders them ends, not ours."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest

from lensllm.core.errors import DataError
from lensllm.data import chat, rendering
from lensllm.data.tokens import tokenise
from tests.lensllm.data.templates import CHATML, byte_level

USER = {"role": "user", "content": "the cat?"}
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
DOUBLED = (
    "{% set ns = namespace(x='x') %}{% for i in range(64) %}{% set ns.x = ns.x ~ ns.x %}"
    "{% endfor %}"
)
OTHERS = [
    (LOOP, "took more than 1 s for this chat; mend or remove it"),
    ("{{ 'x' * 10**10 }}", "takes more than 1,024 MiB of memory"),
    (DOUBLED, "takes more than 1,024 MiB of memory"),
    ("{{ '%3000000000d' % 1 }}", "takes more than 1,024 MiB of memory"),
    ("{{ 'x' * 10**7 }}" + CHATML, "writes 10,000,.* characters, of at most 1,048,.* for this"),
    ("{{ range(10**9) }}", "refuses it: Range too big"),
    ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "refuses it: maximum recursion depth"),
    ("{{ raise_exception('a\\n' * 10**6) }}", "refuses it: a a a"),
    ("{{ " + "(" * 100_000, "refuses it: "),
    ("{% if", "refuses it: "),
    (r"{{ '\ud800' }}" + CHATML, "writes half a character"),
]


@pytest.fixture(autouse=True)
def _fewer_seconds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rendering, "SECONDS", 1)


def tokens(template: object, chats: int = 1) -> pd.DataFrame:
    tokenizer = byte_level(CHATML)
    tokenizer.chat_template = template
    frame = pd.DataFrame({"prompt": "", "completion": ["Hi!"] * chats})
    frame = frame.assign(
        messages=json.dumps([USER]), file="chats.jsonl", number=range(7, 7 + chats)
    )
    return tokenise(frame, tokenizer, 400, form="messages")


@pytest.mark.parametrize(("template", "sentence"), OTHERS, ids=range(len(OTHERS)))
def test_a_template_without_end_is_one_sentence(template: str, sentence: str):
    with pytest.raises(
        DataError, match=f"^line 7 of chats.jsonl: its chat template {sentence}"
    ) as e:
        tokens(template)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 500


@pytest.mark.parametrize(
    ("template", "sentence"),
    [({"tool": CHATML}, "its chat template cannot be chosen: "), ([CHATML], "is a list, and not")],
)
def test_a_template_that_is_no_text_is_one_sentence(template: object, sentence: str):
    with pytest.raises(DataError, match=sentence):
        tokens(template)


def test_the_template_is_named_by_its_folder():
    tokenizer = byte_level(LOOP)
    tokenizer.name_or_path = "models/slow"
    with pytest.raises(DataError, match="the chat template of models/slow took more than 1 s"):
        next(chat.renderer(tokenizer)([([USER], "Hi!")]))


def test_one_chat_that_is_refused_leaves_no_answers_for_the_next():
    """Some are on their way when the error is raised."""
    tokenizer = byte_level(
        "{% if messages|length > 2 %}{{ raise_exception('long') }}{% endif %}" + CHATML
    )
    render = chat.renderer(tokenizer)
    with pytest.raises(DataError, match="refuses it: long"):
        list(render([([USER, USER], "no"), *[([USER], "other")] * 50]))
    texts = list(render([([USER], str(number)) for number in range(300)]))
    assert [int(found.text[found.start : found.end]) for found in texts] == list(range(300))


def test_a_process_that_is_killed_is_started_again():
    render = chat.renderer(byte_level(CHATML))
    first = next(render([([USER], "Hi!")]))
    chat._of_thread.process._process.kill()
    chat._of_thread.process._process.wait()
    assert first == next(render([([USER], "Hi!")]))


def test_the_process_has_none_of_our_secrets(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "horse-battery")
    next(chat.renderer(byte_level(CHATML + "{# another #}"))([([USER], "Hi!")]))
    pid = chat._of_thread.process._process.pid
    if Path("/proc/self/environ").exists():
        assert b"horse-battery" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_the_process_ends_with_its_template():
    next(chat.renderer(byte_level(CHATML))([([USER], "Hi!")]))
    pid = chat._of_thread.process._process.pid
    next(chat.renderer(byte_level(CHATML + "{# another #}"))([([USER], "Hi!")]))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
