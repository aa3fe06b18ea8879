"""A chat as one model reads it: its own chat template, or a plain format for models without one.

The template is rendered with the answer and with a mark in its place; the text before the mark is
what the model reads, so no markup is part of the target. That happens in a process of its own
(``lensllm.data.rendering``), which ends when a template takes too long.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lensllm.core.errors import DataError
from lensllm.data import rendering
from lensllm.data.forms import Turn

_SPEAKERS = {"system": "System", "user": "User", "assistant": "Assistant", "tool": "Tool"}
# Chats and characters that are sent to the process at a time.
_GROUP, _GROUP_CHARACTERS = 100, 2**20
# What the process has of our environment: nothing that is secret.
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")

Chat = tuple[Sequence[Turn], str]  # the turns before the answer, and the answer
Render = Callable[[Iterable[Chat]], Iterator["Rendered"]]


@dataclass(frozen=True)
class Rendered:
    """A chat as text: ``text[start:end]`` is the answer."""

    text: str
    start: int
    end: int


def renderer(tokenizer: Any) -> Render:
    """Yield the renderings of chats for ``tokenizer``, in order.

    Where the next one cannot be, the iterator raises ``DataError``.
    """
    if not has_template(tokenizer):
        return lambda chats: (plain(turns, answer) for turns, answer in chats)
    try:
        template = tokenizer.get_chat_template()
    except Exception as error:  # of several templates none is the usual one
        raise DataError(f"its chat template cannot be chosen: {str(error)[:300]}") from None
    if not isinstance(template, str):
        raise DataError(f"its chat template is a {type(template).__name__}, and not text")
    return lambda chats: _process(template, tokenizer).render(chats)


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


# --- the process ---------------------------------------------------------------------------------
_of_thread = threading.local()  # its process, for the template that was rendered last


def _process(template: str, tokenizer: Any) -> _TemplateProcess:
    """A process that renders ``template``: the one there is, if it does."""
    wanted = template, json.dumps(tokenizer.special_tokens_map)
    found: _TemplateProcess | None = getattr(_of_thread, "process", None)
    if found is None or found.renders != wanted or not found.is_alive:
        if found:
            found.end()
        found = _of_thread.process = _TemplateProcess(*wanted)
    found.folder = str(getattr(tokenizer, "name_or_path", ""))
    return found


class _TemplateProcess:
    """A process that renders one template; not for several threads."""

    def __init__(self, template: str, tokens: str) -> None:
        self.renders = template, tokens
        self.folder = ""  # of the tokenizer that has the template, for messages
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", rendering.__name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        self.end = weakref.finalize(self, _end, self._process)
        asked = {"template": template, "tokens": json.loads(tokens), "seconds": rendering.SECONDS}
        self._asked = json.dumps(asked)

    @property
    def is_alive(self) -> bool:
        return self.end.alive and self._process.poll() is None

    def render(self, chats: Iterable[Chat]) -> Iterator[Rendered]:
        """Yield renderings; the process goes on while its earlier answers are used."""
        for group in _groups(chats):
            self._send(json.dumps(group))
            waiting = len(group)
            try:
                for _ in group:
                    reply = self._receive()
                    waiting -= 1
                    if "refused" in reply:
                        raise self._error(reply["refused"])
                    yield Rendered(**reply)
            finally:
                if waiting:  # nobody reads the other answers
                    self.end()

    def _send(self, line: str) -> None:
        assert self._process.stdin
        try:
            for text in filter(None, (self._asked, line)):
                self._process.stdin.write(text.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None
        self._asked = ""

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._failure()
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _failure(self) -> DataError:
        code = self._process.wait()
        what = f"ended its process (exit code {code})"
        if code == -signal.SIGPROF:
            what = f"took more than {rendering.SECONDS} s for this chat"
        return self._error(f"{what}; mend or remove it")

    def _error(self, problem: str) -> DataError:
        owner = f"the chat template of {self.folder}" if self.folder else "its chat template"
        return DataError(f"{owner} {problem}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def _groups(chats: Iterable[Chat]) -> Iterator[list[Chat]]:
    group, size = list[Chat](), 0
    for turns, answer in chats:
        group.append((turns, answer))
        size += len(answer) + sum(len(turn["content"]) for turn in turns)
        if len(group) == _GROUP or size > _GROUP_CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group
