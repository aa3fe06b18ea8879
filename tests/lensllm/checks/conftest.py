"""A context in which no check finds anything; tests spoil one thing each."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lensllm.checks import Context
from lensllm.curves import Curves
from lensllm.laws import fit, rectified

NAMES = tuple("abcdef")
SIZES = 200 * 2.0 ** np.arange(8)
TARGET = 100_000.0


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
def clean(losses: Callable[..., np.ndarray]) -> Context:
    """Six candidates, eight sizes, three seeds; the target is 2 doublings away."""
    curves = Curves(NAMES, SIZES, losses())
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
    fits = fit.fits_frame([rectified.fit(replace(curves, losses=_law(SIZES)[:, :, None]))])
    fits = pd.concat([fits, fits.assign(law="lensllm", t=3.0, scale=200.0)], ignore_index=True)
    tokenizers = dict(zip(NAMES, "xxyyzz", strict=True))
    return Context(curves, TARGET, "bits_per_byte", predictions, fits, tokenizers)


@pytest.fixture
def with_losses(clean: Context) -> Callable[..., Context]:
    """``with_losses(losses, sizes=…)``: the clean context on other curves."""

    def make(values: np.ndarray, sizes: np.ndarray = SIZES, **changes: Any) -> Context:
        values = values[..., None] if values.ndim == 2 else values
        names = NAMES[: len(values)]
        return replace(clean, curves=Curves(names, sizes, values), **changes)

    return make
