"""What a predictor is: a function from curves and target sizes to losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lensllm.curves.curve import Array, Curves


@dataclass(frozen=True)
class Prediction:
    """Losses at T targets; NaN for a candidate whose curve is too short for the predictor."""

    loss: Array  # (M, T) in the unit of the curves
    sd_log: Array | None = None  # (M, T) of the log loss, where the predictor itself has one

    @classmethod
    def whatever(cls, loss: Array, targets: Array) -> Prediction:
        """The same ``loss`` (M,) at every target."""
        return cls(np.repeat(loss[:, None], len(targets), axis=1))


@dataclass(frozen=True)
class Predictor:
    """``predict(curves, targets)`` raises DataError when the curves lack what it needs."""

    predict: Callable[[Curves, Array], Prediction]  # targets (T,)
    needed_sizes: int  # the fewest observed sizes it predicts from
    with_line: bool = False  # whether it reads AtS's line, which needs γ sizes as well
    with_kernel: bool = False  # whether it depends on the kernels of the candidates
    with_weights: bool = False  # whether it depends on the metrics of their weights


@dataclass(frozen=True)
class Mixture:
    """The mean of other predictors' log losses, weighed by how they did in the backtest."""

    parts: tuple[str, ...]  # K names
    # log errors (C, K, M) and horizons (C,) in doublings of C forecasts -> weights (K,), sum 1
    weigh: Callable[[Array, Array], Array]
