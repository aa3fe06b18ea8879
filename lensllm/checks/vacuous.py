"""LENS205: the bound says no more than is known without it."""

from __future__ import annotations

from typing import Any

import pandas as pd

from lensllm.checks.check import Check, Context, Finding, findings
from lensllm.checks.sharpness import at_largest

CODE = "LENS205"
TIP = "read its terms as a description of the curvature, not as a promise of the loss"


def find(context: Context) -> list[Finding]:
    """Candidates whose bound, at the largest size examined, is not below C or ln(vocabulary)."""
    details = {
        row["candidate"]: f"{row['bound']:.2f} nats, {_known(row)}"
        for row in vacuous(context.bounds).to_dict("records")
    }
    return findings(CODE, "The bound is vacuous at the largest size examined", details, TIP)


def vacuous(bounds: pd.DataFrame) -> pd.DataFrame:
    """Those rows of curvature/bound, at the largest size of each candidate and averaged over seeds,
    whose bound is no lower than C or than guessing."""
    columns = ["bound", "loss_bound", "uniform_nats_per_token"]
    rows = at_largest(bounds).groupby("candidate", as_index=False, sort=False)[columns].mean()
    return rows[rows["bound"] >= rows[columns[1:]].min(axis=1)]


def _known(row: dict[Any, Any]) -> str:
    """The lower of the two values that need no bound."""
    guess, largest = row["uniform_nats_per_token"], row["loss_bound"]
    return (
        f"a guess costs {guess:.2f}" if guess <= largest else f"the largest loss is {largest:.2f}"
    )


CHECK = Check(CODE, "The bound is vacuous", TIP, find)
