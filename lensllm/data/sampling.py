"""Nested subsets: each is a prefix of one seeded permutation; test and validation are fixed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.spatial.distance import jensenshannon
from scipy.stats import ks_2samp

from lensllm import seeds
from lensllm.errors import DataError


def roles(split: pd.Series, *, validation: int, test: int, seed: int, repeat: int) -> pd.DataFrame:
    """The table ``sample/roles`` from the ``split`` column of the examples.

    Test and validation rows depend on ``seed`` alone; the order of the training rows, whose first D
    are subset D, also on ``repeat``. Raises ``DataError`` when there are too few rows.
    """
    rows = np.arange(len(split))
    held_out = rows[(split == "test").to_numpy()]
    given = len(held_out) > 0
    pool = seeds.generator(seed, "test").permutation(held_out if given else rows)
    chosen = pool[:test]
    if len(chosen) < test:
        raise DataError(
            f"the data has {len(pool)} test examples, data.test_examples asks for {test}; lower it"
        )
    rest = rows[(split != "test").to_numpy()] if given else np.setdiff1d(rows, chosen)
    rest = seeds.generator(seed, "validation").permutation(rest)
    if len(rest) <= validation:
        raise DataError(
            f"{len(rest)} examples are left after the test set, and data.validation_examples "
            f"asks for {validation}; lower it or bring more data"
        )
    train = seeds.generator(seed, "subset", repeat).permutation(np.sort(rest[validation:]))
    parts = {"test": chosen, "validation": rest[:validation], "train": train}
    frames = [
        pd.DataFrame({"row": part, "role": role, "rank": np.arange(len(part))})
        for role, part in parts.items()
    ]
    return pd.concat(frames, ignore_index=True)


def check_sizes(available: int, sizes: Sequence[int]) -> None:
    """Raise ``DataError`` when a size exceeds the ``available`` training examples."""
    if max(sizes) > available:
        raise DataError(
            f"the sweep needs {max(sizes):,} training examples and the data has {available:,} "
            "after validation and test; lower sweep.max and sweep.target or bring more data"
        )


def drift(targets: Sequence[str], sizes: Sequence[int]) -> pd.DataFrame:
    """The table ``drift/sizes``: how far each prefix of ``targets`` is from all of them.

    ``targets`` are the training completions in subset order.
    """
    lengths = np.array([len(t.encode()) for t in targets])
    words = [t.split() for t in targets]
    full = Counter(word for text in words for word in text)
    records = []
    for size in sorted({*sizes, len(targets)}):
        seen = Counter(word for text in words[:size] for word in text)
        weights = np.array([[seen[w], n] for w, n in full.items()], dtype=float)
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
