"""LENS301: much of what the candidates must produce is cut off."""

from __future__ import annotations

from lensllm.diagnostics.checks.data.check import Check, Context, Finding, by_candidate

CODE = "LENS301"
TIP = "raise data.max_tokens, of which a completion has half, or bring shorter ones"
# A tenth: what is left is then still most of the text, and the loss that of most examples.
SHARE = 0.1


def find(context: Context) -> list[Finding]:
    """Candidates for which a tenth or more of the targets lose their end."""
    used, details, any_cut = context.used, {}, ~context.used & False
    for name, cut in context.cut("target_truncated").items():
        if (count := int((cut & used).sum())) >= SHARE * used.sum():
            whose = "all" if count == used.sum() else f"{count / used.sum():.0%}"
            details[name] = f"{whose} of {used.sum():,}"
            any_cut |= cut & used
    shown = context.show(any_cut) if details else ("", "")
    claim = f"Targets are cut at {context.max_tokens} tokens an example"
    return by_candidate(CODE, claim, details, TIP, shown)


CHECK = Check(CODE, "Targets are cut", TIP, find)
