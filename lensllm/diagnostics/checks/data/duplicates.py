"""LENS303: what is trained on is tested on."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lensllm.data.readers import place
from lensllm.diagnostics.checks.data.check import HELD_OUT, Check, Context, Finding

CODE = "LENS303"
TIP = "make sure that the test set is what will be asked, and not what was"


def find(context: Context) -> list[Finding]:
    """Examples of a given test or validation set that were among the others, and near copies."""
    return [*_equal(context), *_nearly_equal(context)]


def _equal(context: Context) -> list[Finding]:
    found = []
    for row in context.summary.to_dict("records"):
        if row["shared"]:
            where, _, text = row["shared_place"].partition(", ")
            which = row["split"] or "train"
            message = (
                f"{row['shared']:,} of {row['rows']:,} rows of the {which} set are in a set held "
                f"out as well, and are left out of it; {TIP}."
            )
            found.append(Finding(CODE, "", message, where, text.strip("“”")))
    return found


def _nearly_equal(context: Context) -> list[Finding]:
    examples = context.examples
    parts = [examples[name].map(_plain) for name in ("prompt", "messages", "completion")]
    keys = pd.util.hash_pandas_object(pd.concat(parts, axis=1), index=False)
    trained = (examples["role"] == "train").to_numpy()
    held = examples["role"].isin(HELD_OUT).to_numpy()
    copies = held & keys.isin(keys[trained]).to_numpy()
    if not (count := int(copies.sum())):
        return []
    first = int(np.argmax(copies))
    twin = examples.iloc[int(np.argmax(trained & (keys == keys.iloc[first]).to_numpy()))]
    message = (
        f"{count:,} of {held.sum():,} examples held out differ from a training example in "
        f"case or space alone, the first from {place(twin['file'], int(twin['number']))}; {TIP}."
    )
    return [Finding(CODE, "", message, *context.show(np.arange(len(examples)) == first))]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


CHECK = Check(CODE, "Training examples in the test set", TIP, find)
