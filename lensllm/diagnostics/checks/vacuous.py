"""LENS205: the bound says no more than is known without it."""

from __future__ import annotations

from typing import Any

import pandas as pd

from lensllm.diagnostics.checks.check import Check, Context, Finding, findings

CODE = "LENS205"
TIP = "read its terms as a description of the curvature, not as a promise of the loss"


def find(context: Context) -> list[Finding]:
    """Candidates with an examined size whose bound is not below C or ln(vocabulary)."""
    sizes = context.bounds.groupby("candidate")["size"].nunique()
    details = {}
    for name, rows in vacuous(context.bounds).groupby("candidate", sort=False):
        last = rows.sort_values("size").iloc[-1].to_dict()
        details[str(name)] = (
            f"at {len(rows)} of {sizes[name]} sizes; at D = {last['size']:,.0f} it is "
            f"{last['bound']:.2f} nats and {_known(last)}"
        )
    return findings(CODE, "The bound is vacuous", details, TIP)


def vacuous(bounds: pd.DataFrame) -> pd.DataFrame:
    """Of curvature/bound, averaged over seeds, the rows (candidate, size) whose bound is no lower
    than C or than guessing."""
    columns = ["bound", "loss_bound", "uniform_nats_per_token"]
    cell = ["candidate", "size"]
    rows = bounds.groupby(cell, as_index=False, sort=False)[columns].mean()
    return rows[rows["bound"] >= rows[columns[1:]].min(axis=1)]


def _known(row: dict[Any, Any]) -> str:
    """The lower of the two values that need no bound."""
    guess, largest = row["uniform_nats_per_token"], row["loss_bound"]
    return (
        f"a guess costs {guess:.2f}" if guess <= largest else f"the largest loss is {largest:.2f}"
    )


CHECK = Check(CODE, "The bound is vacuous", TIP, find)
