"""LENS307: chats for a model that has no chat template."""

from __future__ import annotations

from lensllm.diagnostics.checks.data.check import Check, Context, Finding, by_candidate

CODE = "LENS307"
TIP = "save a chat_template with its tokenizer if it was trained on one"


def find(context: Context) -> list[Finding]:
    """Candidates that read chats in the plain format."""
    details = {
        name: "“User:”, “Assistant:” and the text below"
        for name, reading in context.readings.items()
        if reading["rendering"] == "plain chat"
    }
    return by_candidate(CODE, "Chats are written in a plain format", details, TIP)


CHECK = Check(CODE, "Chats without a chat template", TIP, find)
