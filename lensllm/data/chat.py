"""A chat as one model reads it: its own chat template, or a plain format for models without one.

The template is rendered with the answer and with a mark in its place; what stands before the mark
is what the model reads, so no markup is ever part of the target.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lensllm.data.messages import Turn
from lensllm.errors import DataError

_MARK = "\u2063answer\u2063"  # invisible separators, so in nobody's chat, and no space to strip
# Some templates write the date of today; a rendering must not depend on the day.
_TODAY = "01 Jan 2025"
_CLOCK = "{% macro strftime_now(format) %}" + _TODAY + "{% endmacro %}"
_SPEAKERS = {"system": "System", "user": "User", "assistant": "Assistant", "tool": "Tool"}

Render = Callable[[Sequence[Turn], str], "Rendered"]


@dataclass(frozen=True)
class Rendered:
    """A chat as text: ``text[start:end]`` is the answer."""

    text: str
    start: int
    end: int


def renderer(tokenizer: Any) -> Render:
    """How chats are rendered for ``tokenizer``: turns before the answer, and the answer."""
    if not has_template(tokenizer):
        return lambda turns, answer: plain(turns, answer)
    return lambda turns, answer: _by_template(tokenizer, turns, answer)


def has_template(tokenizer: Any) -> bool:
    return bool(getattr(tokenizer, "chat_template", None))


def plain(turns: Sequence[Turn], answer: str) -> Rendered:
    """For a model without a template: every turn under its speaker, a blank line between.

    >>> plain([{"role": "user", "content": "Hi"}], "Hello").text
    'User:\\nHi\\n\\nAssistant:\\nHello'
    """
    before = "".join(f"{_SPEAKERS[t['role']]}:\n{t['content']}\n\n" for t in turns)
    before += f"{_SPEAKERS['assistant']}:\n"
    return Rendered(before + answer, len(before), len(before) + len(answer))


def _by_template(tokenizer: Any, turns: Sequence[Turn], answer: str) -> Rendered:
    try:
        return _fill(tokenizer, turns, answer)
    except Exception as error:  # whatever a template raises: roles it does not know, an order
        folded = _without_system(turns)
        if folded is None:
            raise DataError(f"its chat template refuses it: {error}") from None
    try:
        return _fill(tokenizer, folded, answer)
    except Exception as error:
        raise DataError(f"its chat template refuses it: {error}") from None


def _fill(tokenizer: Any, turns: Sequence[Turn], answer: str) -> Rendered:
    before, mark, after = _text(tokenizer, turns, _MARK).rpartition(_MARK)
    if not mark:
        raise DataError("its chat template does not write the assistant's last message")
    text = _text(tokenizer, turns, answer)
    if not (text.startswith(before) and text.endswith(after)):
        raise DataError("its chat template changes what stands around the assistant's last message")
    return Rendered(text, len(before), len(text) - len(after))


def _text(tokenizer: Any, turns: Sequence[Turn], answer: str) -> str:
    text: str = tokenizer.apply_chat_template(
        [*turns, {"role": "assistant", "content": answer}],
        tokenize=False,
        chat_template=_CLOCK + tokenizer.get_chat_template(),
        date_string=_TODAY,
    )
    return text


def _without_system(turns: Sequence[Turn]) -> list[Turn] | None:
    """The system's words before the first user's, for templates that have no system turn."""
    if len(turns) < 2 or (turns[0]["role"], turns[1]["role"]) != ("system", "user"):
        return None
    first = f"{turns[0]['content']}\n\n{turns[1]['content']}"
    return [{"role": "user", "content": first}, *turns[2:]]
