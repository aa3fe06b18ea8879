"""The process in which a model's chat template is rendered: ``python -m lensllm.data.rendering``.

A template is a program of somebody else's, which may loop or write without end; only a process can
be stopped and kept from memory. It reads lines of JSON from standard input, first the template,
then groups of chats, and writes a line per chat.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Turn = dict[str, str]

SECONDS = 10  # of processor time for one chat; a thousand chats take about one
MEMORY_BYTES = 2**30  # beside what the process has when it starts
# Characters of a rendered chat: so many, and so many for each of its own.
_CHARACTERS, _TIMES = 2**20, 10

_MARK = "\u2063answer\u2063"  # invisible separators, so in nobody's chat, and no space to strip
# Some templates write the date of today; a rendering must not depend on the day.
_TODAY = "01 Jan 2025"
_CLOCK = "{% macro strftime_now(format) %}" + _TODAY + "{% endmacro %}"

Render = Callable[[Sequence[Turn]], str]


class RefusedError(Exception):
    """A chat cannot be rendered; the message's subject is the template."""


def main() -> None:
    """Serve until standard input ends; ends by SIGPROF when a chat takes too long."""
    asked = json.loads(sys.stdin.buffer.readline())
    render = renderer(asked["template"], asked["tokens"])
    statm = Path("/proc/self/statm")
    if statm.exists():  # elsewhere the system does not say how much memory the process has
        most = int(statm.read_text().split()[0]) * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for line in sys.stdin.buffer:
        for turns, answer in json.loads(line):
            signal.setitimer(signal.ITIMER_PROF, asked["seconds"])
            reply: dict[str, Any] = {}
            try:
                reply["text"], reply["start"], reply["end"] = rendered(render, turns, answer)
            except RefusedError as error:
                reply["refused"] = str(error)
            signal.setitimer(signal.ITIMER_PROF, 0)
            sys.stdout.buffer.write(json.dumps(reply, ensure_ascii=False).encode() + b"\n")
        sys.stdout.buffer.flush()


def renderer(template: str, tokens: Mapping[str, str]) -> Render:
    """The function that transformers renders with; ``tokens`` are the special ones by name."""
    from transformers.utils.chat_template_utils import render_jinja_template

    def render(turns: Sequence[Turn]) -> str:
        options = {**tokens, "date_string": _TODAY, "chat_template": _CLOCK + template}
        text: str = render_jinja_template(conversations=[list(turns)], **options)[0][0]
        return text

    return render


def rendered(render: Render, turns: Sequence[Turn], answer: str) -> tuple[str, int, int]:
    """The chat as text, and where in it the answer begins and ends. Raises ``RefusedError``.

    For a template without a system turn the system's words go before the first user's.
    """
    try:
        return _fill(render, turns, answer)
    except RefusedError:
        if [turn["role"] for turn in turns[:2]] != ["system", "user"]:
            raise
    first = f"{turns[0]['content']}\n\n{turns[1]['content']}"
    return _fill(render, [{"role": "user", "content": first}, *turns[2:]], answer)


def _fill(render: Render, turns: Sequence[Turn], answer: str) -> tuple[str, int, int]:
    before, mark, after = _text(render, turns, _MARK).rpartition(_MARK)
    if not mark:
        raise RefusedError("does not write the assistant's last message")
    text = _text(render, turns, answer)
    if not (text.startswith(before) and text.endswith(after)):
        raise RefusedError("changes what stands around the assistant's last message")
    return text, len(before), len(text) - len(after)


def _text(render: Render, turns: Sequence[Turn], answer: str) -> str:
    chat = [*turns, {"role": "assistant", "content": answer}]
    most = _CHARACTERS + _TIMES * sum(len(turn["content"]) for turn in chat)
    try:
        text = render(chat)
    except MemoryError:
        raise RefusedError(f"takes more than {MEMORY_BYTES // 2**20:,} MiB of memory") from None
    except Exception as error:  # whatever a template raises: roles it does not know, an order
        said = " ".join(str(error)[:300].split())
        raise RefusedError(f"refuses it: {said or type(error).__name__}") from None
    if len(text) > most:
        raise RefusedError(f"writes {len(text):,} characters, of at most {most:,} for this chat")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RefusedError("writes half a character") from None
    return text


if __name__ == "__main__":
    main()
