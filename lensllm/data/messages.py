"""Chats as people have them: OpenAI's role and content, ShareGPT's from and value.

``turns`` gives one spelling, role and content, of what a row holds.
"""

from __future__ import annotations

from typing import Any

from lensllm.core.errors import DataError, listing, suggestion
from lensllm.core.untrusted import UnreadableError, parse_json, short, shown

Turn = dict[str, str]  # role: system, user, assistant or tool; content

COLUMNS = ("messages", "conversations", "conversation")  # as data sets call them
_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
}


def turns(value: Any, column: str) -> list[Turn]:
    """The turns of a chat, those of a JSON text too. Raises ``DataError`` when it is none."""
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except UnreadableError:
            value = None
    if not isinstance(value, list):
        raise DataError(f"column '{column}' holds no list of messages")
    return [_turn(entry, f"message {i} of column '{column}'") for i, entry in enumerate(value, 1)]


def _turn(entry: Any, where: str) -> Turn:
    if not isinstance(entry, dict):
        raise DataError(f"{where} is {shown(entry)}, and not a role with its content")
    role = entry.get("role", entry.get("from"))
    content = entry.get("content", entry.get("value"))
    if role is None or ("content" not in entry and "value" not in entry):
        raise DataError(
            f"{where} has {listing(entry) or 'nothing'}; "
            "a message has role and content, or from and value"
        )
    known = _ROLES.get(short(role).lower())
    if known is None:
        raise DataError(
            f"{where} has the role '{short(role)}'{suggestion(short(role), _ROLES)}; "
            "roles are system, user, assistant and tool"
        )
    return {"role": known, "content": _content(content, where)}


def _content(content: Any, where: str) -> str:
    """Text, or OpenAI's list of parts, all of them text."""
    if content is None:  # an assistant that only calls a tool
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        for part in content:
            if not (isinstance(part, dict) and isinstance(part.get("text"), str)):
                kind = part.get("type", "something else") if isinstance(part, dict) else part
                raise DataError(
                    f"{where} has a part that is not text ({short(kind)}); only text is read"
                )
        return "".join(part["text"] for part in content)
    raise DataError(f"{where} has the content {shown(content)}, which is not text")
