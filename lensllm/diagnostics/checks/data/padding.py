"""LENS306: a tokenizer without a padding token."""

from __future__ import annotations

from lensllm.diagnostics.checks.data.check import Check, Context, Finding, by_candidate

CODE = "LENS306"
TIP = "leave it so here, where padding carries no loss, and set pad_token to train elsewhere"


def find(context: Context) -> list[Finding]:
    """Candidates whose tokenizer names none; one without an end token is refused."""
    details = {
        name: f"ends with {reading['end_token']}"
        for name, reading in context.readings.items()
        if not reading["pad_token"]
    }
    return by_candidate(CODE, "The tokenizer has no padding token", details, TIP)


CHECK = Check(CODE, "A tokenizer without a padding token", TIP, find)
