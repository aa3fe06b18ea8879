"""Predictors that continue a fitted scaling law (``lensllm.laws``) to the targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from lensllm.curves.curve import Array, Curves
from lensllm.laws import KernelScale, LawFit
from lensllm.laws.lensllm import PARAMETERS, Mode, fit_lensllm
from lensllm.predictors.predictor import Input, Prediction


def fitted(fit: Callable[[Curves], LawFit], curves: Curves, targets: Array) -> Prediction:
    """The law that ``fit`` fits to every curve on its own, at ``targets``.

    Raises DataError when no candidate has enough sizes.
    """
    return Prediction(fit(curves).predict(targets))


@dataclass(frozen=True)
class LensLLM:
    """The LensLLM law, whose offset comes from the kernel (Zeng et al. 2025, equation 10)."""

    mode: Mode = "prediction"
    kernel_scale: KernelScale = "scaled"

    version: ClassVar[int] = 1
    reads: ClassVar[tuple[Input, ...]] = ("kernel",)

    @property
    def needed_sizes(self) -> int:
        """The law's free parameters of one curve."""
        return PARAMETERS[self.mode]

    def predict(self, curves: Curves, targets: Array) -> Prediction:
        """The fitted law at ``targets`` (T,).

        Raises DataError without kernels, in *phase* mode without stopping times, or when no
        candidate has ``needed_sizes`` sizes.
        """
        return Prediction(fit_lensllm(curves, self.mode, self.kernel_scale).predict(targets))
