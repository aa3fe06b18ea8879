"""Nested subsets: each is a prefix of one seeded permutation; test and validation are fixed."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from scipy.stats import ks_2samp

from lensllm.core import seeds
from lensllm.core.errors import DataError

Rows = NDArray[np.int64]


def split_examples(
    split: pd.Series,
    strata: pd.Series | None = None,
    *,
    validation: int,
    test: int,
    seed: int,
    repeat: int,
) -> pd.DataFrame:
    """The table ``sample/roles`` from the ``split`` column of the examples.

    Test and validation rows depend on ``seed`` alone; the order of the training rows, whose first D
    are subset D, also on ``repeat``. With ``strata``, a value of each example, whatever is drawn
    has all values in proportion. Raises ``DataError`` when there are too few rows.
    """

    def order(rows: Rows, purpose: str, *indices: int) -> Rows:
        draw = seeds.generator(seed, purpose, *indices)
        if strata is None:
            return draw.permutation(rows)
        return stratified(rows, strata.to_numpy()[rows], draw)

    if strata is not None and strata.nunique() > len(strata) / 2:
        raise DataError(
            "data.stratify: its column has another value in almost every example "
            f"({strata.nunique():,} of {len(strata):,}); name one with few values, or none"
        )
    rows = np.arange(len(split))
    given = {role: rows[(split == role).to_numpy()] for role in ("test", "validation")}
    others = rows[~split.isin(list(given)).to_numpy()]
    pool = order(given["test"] if len(given["test"]) else others, "test")
    chosen = pool[:test]
    if len(chosen) < test:
        raise DataError(
            f"the data has {len(pool)} test examples, data.test_examples asks for {test}; lower it"
        )
    rest = np.setdiff1d(others, chosen)
    if len(own := given["validation"]):
        if len(own) < validation:
            raise DataError(
                f"the data has {len(own)} validation examples, data.validation_examples asks for "
                f"{validation}; lower it"
            )
        held, kept = order(own, "validation")[:validation], rest
    else:
        rest = order(rest, "validation")
        held, kept = rest[:validation], rest[validation:]
    if not len(kept):
        raise DataError(
            f"{len(rest)} examples are left after the test set, and data.validation_examples "
            f"asks for {validation}; lower it or bring more data"
        )
    train = order(np.sort(kept), "subset", repeat)
    parts = {"test": chosen, "validation": held, "train": train}
    frames = [
        pd.DataFrame({"row": part, "role": role, "rank": np.arange(len(part))})
        for role, part in parts.items()
    ]
    return pd.concat(frames, ignore_index=True)


def stratified(rows: Rows, strata: NDArray[Any], draw: np.random.Generator) -> Rows:
    """A random order of ``rows`` each prefix of which has every stratum in proportion.

    Of a stratum with share p the first D rows have ⌊pD⌋ or ⌈pD⌉. Its j-th row (j = 0, 1, …) then
    has to stand in the places ⌊j/p⌋ … ⌈(j+1)/p⌉ − 1, and giving each place to the row whose last
    place comes first keeps to that (the chairman assignment problem, Tijdeman 1980).
    """
    total = len(rows)
    jobs = list[tuple[int, int, float, int]]()  # first place, last place, tie, row
    for value in dict.fromkeys(strata.tolist()):
        mine = draw.permutation(rows[strata == value]).tolist()
        n, tie = len(mine), float(draw.random())
        jobs += [
            (j * total // n, -(-(j + 1) * total // n) - 1, tie, row) for j, row in enumerate(mine)
        ]
    jobs.sort(key=lambda job: job[0])
    order, waiting, coming = [], list[tuple[int, float, int, int]](), iter(jobs)
    job = next(coming, None)
    for place in range(total):
        while job and job[0] <= place:
            first, last, tie, row = job
            heapq.heappush(waiting, (last, tie, first, row))
            job = next(coming, None)
        order.append(heapq.heappop(waiting)[-1])
    return np.array(order, dtype=rows.dtype)


def check_sizes(available: int, sizes: Sequence[int], kept: int | None = None) -> None:
    """Raise ``DataError`` when a size exceeds the ``available`` training examples.

    ``kept`` of them are there to train on, where not all are.
    """
    if max(sizes) > available:
        raise DataError(
            f"the sweep needs {max(sizes):,} training examples and the data has {available:,} "
            "after validation and test; lower sweep.max and sweep.target or bring more data"
        )
    if kept is not None and max(sizes) > kept:
        raise DataError(
            f"the sweep trains on {max(sizes):,} examples and {kept:,} of {available:,} are kept; "
            f"set data.keep to {max(sizes) + available // 10:,} or more, or lower the sizes"
        )


def drift(targets: Sequence[str], sizes: Sequence[int]) -> pd.DataFrame:
    """The table ``drift/sizes``: how far each prefix of ``targets`` is from all of them.

    ``targets`` are the training completions in subset order.
    """
    lengths = np.array([len(t.encode()) for t in targets])
    marks = sorted({*sizes, len(targets)})
    full: Counter[str] = Counter()
    seen = dict[int, Counter[str]]()
    for end, begin in zip(marks, [0, *marks], strict=False):
        for text in targets[begin:end]:
            full.update(text.split())
        seen[end] = full.copy()
    records = []
    for size in marks:
        weights = np.array([[seen[size][w], n] for w, n in full.items()], dtype=float)
        records.append(
            {
                "size": size,
                "mean_target_bytes": lengths[:size].mean(),
                "median_target_bytes": np.median(lengths[:size]),
                "target_length_ks": ks_2samp(lengths[:size], lengths).statistic,
                "vocabulary_js_bits": jensenshannon(weights[:, 0], weights[:, 1], base=2) ** 2,
                "vocabulary_coverage": weights[weights[:, 0] > 0, 1].sum() / weights[:, 1].sum(),
            }
        )
    return pd.DataFrame(records)
