"""LENS302: rows that are no example, above all those with nothing to produce."""

from __future__ import annotations

from lensllm.diagnostics.checks.data.check import Check, Context, Finding

CODE = "LENS302"
TIP = "fill them in or take them out, if they are more than a few"


def find(context: Context) -> list[Finding]:
    """Sets with empty targets, or chats that do not end with an answer."""
    return [
        Finding(
            CODE,
            "",
            f"{row['unfit']:,} of {row['rows']:,} rows{_of(row['split'])} are no example and are "
            f"left out, the first because {row['unfit_reason']}; {TIP}.",
            row["unfit_place"],
        )
        for row in context.summary.to_dict("records")
        if row["unfit"]
    ]


def _of(split: str) -> str:
    return f" of the {split} set" if split else ""


CHECK = Check(CODE, "Rows that are no example", TIP, find)
