"""LENS206: a measured test loss lies above the bound."""

from __future__ import annotations

from lensllm.diagnostics.checks.check import Check, Context, Finding, findings

CODE = "LENS206"
TIP = "raise curvature.examples, for C and h are then seen on too few"


def find(context: Context) -> list[Finding]:
    """Of every candidate with such a cell the one with the largest excess.

    Single cells, for the theorem is about one run; the seeds are not averaged.
    """
    cells = context.bounds
    cells = cells.assign(excess=cells["test_nats_per_token"] - cells["bound"])
    above = cells[cells["excess"] > 0].sort_values("excess", ascending=False, kind="stable")
    details = {
        row["candidate"]: f"{row['test_nats_per_token']:.2f} against {row['bound']:.2f} "
        f"at {row['size']:,}"
        for row in above.drop_duplicates("candidate").to_dict("records")
    }
    return findings(CODE, "The measured test loss is above the bound", details, TIP)


CHECK = Check(CODE, "Test loss above the bound", TIP, find)
