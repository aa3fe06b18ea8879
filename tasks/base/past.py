"""Curves of other data sets in the store, and the prior that HRB learns from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from lensllm.curves.curve import Metric, curves_from_cells
from lensllm.predictors import hrb
from lensllm.predictors.hrb import DEFAULT_PRIOR, Prior
from lensllm.store.artifacts import Ref, Store

_ROOTS = ("dataset", "losses")


def find(store: Store, today: Ref, versions: Mapping[str, int]) -> dict[str, Ref]:
    """The largest finished curves of every data set but that of ``today``, by data set.

    ``versions`` are those of the stages with such curves: others are out of date.
    """
    mine = _root(store, today)
    largest: dict[Ref, tuple[int, Ref]] = {}
    for stage, version in versions.items():
        for ref in store.refs(stage):
            if store.manifest(ref)["version"] != version:
                continue
            root = _root(store, ref)
            if root is None or root == mine:
                continue
            size = (len(store.table(ref, "cells")), ref)
            largest[root] = max(largest.get(root, size), size, key=lambda x: (x[0], x[1].key))
    return {str(root): ref for root, (_, ref) in sorted(largest.items(), key=str)}


def prior(store: Store, refs: Iterable[Ref], metric: Metric, today: pd.DataFrame) -> Prior:
    """The prior that HRB learns from curves of other data sets; the default without any.

    A table without the metric is left out: a floor in bits says nothing about one in nats. A table
    with most losses of ``today`` (curve/cells) is left out too: it is today's, perhaps with a
    typing error mended, and holds the losses that are to be predicted.
    """
    tables = [store.table(ref, "cells") for ref in refs]
    past = [
        curves_from_cells(cells, metric, int(cells["size"].max()))
        for cells in tables
        if np.isfinite(cells[metric]).any() and not _alike(cells, today, metric)
    ]
    return hrb.learn(past) if past else DEFAULT_PRIOR


def _alike(cells: pd.DataFrame, today: pd.DataFrame, metric: Metric) -> bool:
    """True if most losses of ``today`` are among the ``cells``."""
    return bool(today[metric].isin(cells[metric]).mean() > 0.5)


def _root(store: Store, ref: Ref) -> Ref | None:
    """The data set or table that an artefact was made from, by any way that leads there."""
    while ref.stage not in _ROOTS:
        upstream = store.manifest(ref)["upstream"] if store.has(ref) else {}
        towards = ("sample", "dataset", *upstream)
        role = next((r for r in towards if r in upstream), None)
        if role is None:
            return None
        ref = Ref(*upstream[role])
    return ref
