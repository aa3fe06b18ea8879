"""The types of a predictor: losses at larger sizes from the curves measured so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol

import numpy as np

from lensllm.curves.curve import Array, Curves

Input = Literal["kernel", "heavy_tails", "past"]
"""An input beside the losses: kernels at the pretrained weights, exponents of their weight spectra,
or curves of other data sets."""


@dataclass(frozen=True)
class Prediction:
    """Losses at T targets; NaN for a candidate whose curve is too short for the predictor."""

    loss: Array  # (M, T) in the unit of the curves
    sd_log: Array | None = None  # (M, T) of the log loss, where the predictor itself has one

    @classmethod
    def constant(cls, loss: Array, targets: Array) -> Prediction:
        """The same ``loss`` (M,) at every target (T,)."""
        return cls(np.repeat(loss[:, None], len(targets), axis=1))


class Predictor(Protocol):
    """A rule that continues curves; the fields of a dataclass that follows it are its settings."""

    @property
    def version(self) -> int:
        """Raised when the predictor gives other numbers for the same curves and settings."""

    @property
    def reads(self) -> tuple[Input, ...]:
        """The inputs that the predictor reads beside losses, sizes and parameter counts."""

    @property
    def needed_sizes(self) -> int:
        """The fewest observed sizes that it predicts from."""

    def predict(self, curves: Curves, targets: Array) -> Prediction:
        """Predict the loss at ``targets`` (T,).

        Raises DataError when the curves lack what the predictor needs.
        """


@dataclass(frozen=True)
class Function:
    """A predictor without settings: a function of curves and targets."""

    predict: Callable[[Curves, Array], Prediction]  # raises DataError as Predictor.predict does
    needed_sizes: int
    reads: tuple[Input, ...] = ()
    version: int = 1


@dataclass(frozen=True)
class Mixture:
    """The mean of other predictors' log losses, weighed by their errors in the backtest."""

    parts: tuple[str, ...]  # K names of predictors
    # log errors (C, K, M) and horizons (C,) in doublings of C forecasts -> weights (K,), sum 1
    weigh: Callable[[Array, Array], Array]
    version: int = 1


def settings(predictor: Predictor) -> dict[str, Any]:
    """The settings of a predictor by name, as far as plain values; HRB's prior is an input."""
    if isinstance(predictor, Function):
        return {}
    values = {field.name: getattr(predictor, field.name) for field in fields(predictor)}  # type: ignore[arg-type]
    return {name: value for name, value in values.items() if isinstance(value, int | float | str)}
