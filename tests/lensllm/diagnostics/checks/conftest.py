"""A context in which no check finds anything; tests spoil one thing each."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from lensllm.curves.curve import Curves
from lensllm.diagnostics.checks import RankingEvidence
from lensllm.laws import fit_rectified, fits_frame
from lensllm.store.schemas import schema

NAMES = tuple("abcdef")
SIZES = 200 * 2.0 ** np.arange(8)
TARGET = 100_000.0
EXAMINED = (200, 1600, 25_600)


def _law(sizes: np.ndarray) -> np.ndarray:
    """(6, len(sizes)) rectified laws, the phases alike and the levels apart."""
    beta, start = np.linspace(0.3, 0.5, 6)[:, None], np.linspace(300, 700, 6)[:, None]
    level = np.linspace(1.0, 1.5, 6)[:, None]
    return level * (1 + 20 / (start**beta + sizes**beta))


@pytest.fixture
def losses() -> Callable[..., np.ndarray]:
    """``losses(seeds=3, noise=.002)``: (6, 8, seeds) at ``clean.curves.sizes``."""

    def make(seeds: int = 3, noise: float = 0.002) -> np.ndarray:
        random = np.random.default_rng(0)
        wobble = np.exp(noise * random.standard_normal((6, len(SIZES), seeds)))
        return _law(SIZES)[:, :, None] * wobble

    return make


@pytest.fixture
def clean(losses: Callable[..., np.ndarray]) -> RankingEvidence:
    """Six candidates, eight sizes, three seeds; the target is 2 doublings away."""
    curves = Curves(NAMES, SIZES, losses(), families=("gpt2",) * 4 + ("t5", ""))
    predicted = _law(np.array([TARGET]))[:, 0]
    predictions = pd.DataFrame(
        {
            "candidate": NAMES,
            "predicted": predicted,
            "low": predicted * 0.98,
            "high": predicted * 1.02,
            "p_best": [0.9, *[0.02] * 5],
        }
    )
    fits = fits_frame([fit_rectified(replace(curves, losses=_law(SIZES)[:, :, None]))])
    fits = pd.concat([fits, fits.assign(law="lensllm", t=3.0, scale=200.0)], ignore_index=True)
    tokenizers = dict(zip(NAMES, "xxyyzz", strict=True))
    return RankingEvidence(
        curves,
        TARGET,
        "bits_per_byte",
        predictions,
        fits,
        tokenizers,
        budget=SIZES[-1],
        bounds=_bounds(),
        layers=_layers(),
        crossings=_crossings(),
    )


def _cells() -> list[dict[str, Any]]:
    return [
        {"candidate": name, "size": size, "repeat": seed}
        for name in NAMES
        for size in EXAMINED
        for seed in range(2)
    ]


def _bounds() -> pd.DataFrame:
    """Bounds of 4 to 5 nats over test losses of 3.5, far below C = 9 and a guess at 8."""
    values = {"loss_bound": 9.0, "uniform_nats_per_token": 8.0, "test_nats_per_token": 3.5}
    rows = [{**cell, **values, "bound": 4 + 100 / cell["size"]} for cell in _cells()]
    return _table("curvature/bound", rows)


def _layers() -> pd.DataFrame:
    """Four layers alike, the trace 100 ± 2 in all of every cell, larger candidates a bit sharper."""
    rows = [
        {**cell, "layer": layer, "parameters": 1000, "trace": 25.0, "trace_stderr": 1.0,
         "vhv_positive_max": 0.3, "largest_eigenvalue": 30.0 + ord(cell["candidate"]) - ord("a")}
        for cell in _cells()
        for layer in ("embeddings", "h.0", "h.1", "ln_f")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _crossings() -> pd.DataFrame:
    """By the bound the power phase begins at 400, by the law at 300 to 700; the literal n* never."""
    rows = [
        {"candidate": name, "remainder": remainder, "crossing_size": size, "low": size / 4,
         "high": size * 4, "transition_size": start, "agrees": True}
        for name, start in zip(NAMES, np.linspace(300, 700, 6), strict=True)
        for remainder, size in (("literal", np.inf), ("fitted", 400.0))
    ]  # fmt: skip
    return _table("crossing/candidates", rows)


def _table(name: str, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Columns that no check reads are left empty."""
    return pa.Table.from_pylist(rows, schema=schema(name)).to_pandas()


@pytest.fixture
def with_losses(clean: RankingEvidence) -> Callable[..., RankingEvidence]:
    """``with_losses(losses, sizes=…)``: the clean context on other curves."""

    def make(values: np.ndarray, sizes: np.ndarray = SIZES, **changes: Any) -> RankingEvidence:
        values = values[..., None] if values.ndim == 2 else values
        names = NAMES[: len(values)]
        return replace(clean, curves=Curves(names, sizes, values), **changes)

    return make
