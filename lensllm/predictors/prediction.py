"""What a predictor is: a function from curves and a target size to losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lensllm.curves import Array, Curves


@dataclass(frozen=True)
class Prediction:
    """The loss at the target; NaN for a candidate whose curve is too short for the predictor."""

    loss: Array  # (M,) in the unit of the curves


@dataclass(frozen=True)
class Predictor:
    """``predict(curves, target)`` raises DataError when the curves lack what it needs."""

    predict: Callable[[Curves, float], Prediction]
    needed_sizes: int  # the fewest observed sizes it predicts from
    # its error grows as doublings to this power, until a backtest says otherwise
    growth: float = 1.0
