"""LENS107: losses per token of different tokenizers are in different units."""

from __future__ import annotations

from lensllm.diagnostics.checks.check import Check, Context, Finding

CODE = "LENS107"
TIP = "rank by bits per byte, or only among candidates that share a tokenizer"


def find(context: Context) -> list[Finding]:
    """Whether losses per token are ranked over several tokenizers, or over unknown ones."""
    candidates = context.curves.candidates
    if context.metric != "nats_per_token" or len(candidates) < 2:
        return []
    kinds = {(context.tokenizers or {}).get(name, "") for name in candidates}
    known = len(kinds - {""})
    if known > 1:
        reason = f"the {len(candidates)} candidates have {known} tokenizers"
    elif "" in kinds:
        reason = "whether these candidates do is not known"
    else:
        return []
    message = f"Losses per token compare only candidates that share a tokenizer, and {reason}"
    return [Finding(CODE, "", f"{message}; {TIP}.")]


CHECK = Check(CODE, "Losses per token of different tokenizers", TIP, find)
