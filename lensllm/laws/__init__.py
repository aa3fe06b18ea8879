"""Scaling laws: the loss of a candidate as a function of the number of training examples."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from lensllm.core.errors import DataError
from lensllm.curves.curve import Curves
from lensllm.laws.fit import LawFit, evaluate, fit_rectified, fit_vanilla, fits_frame
from lensllm.laws.lensllm import KernelScale, fit_lensllm


def laws(kernel_scale: KernelScale = "scaled") -> dict[str, Callable[[Curves], LawFit]]:
    """The fit of every law by name; ``kernel_scale`` is how the LensLLM laws read F(Θ, t)."""
    return {
        "vanilla": fit_vanilla,
        "rectified": fit_rectified,
        "lensllm": partial(fit_lensllm, mode="prediction", kernel_scale=kernel_scale),
        "lensllm_phase": partial(fit_lensllm, mode="phase", kernel_scale=kernel_scale),
        "lensllm_pooled": partial(fit_lensllm, mode="pooled", kernel_scale=kernel_scale),
    }


def fit_law(curves: Curves, law: str = "rectified", kernel_scale: KernelScale = "scaled") -> LawFit:
    """Fit a scaling law to every curve: *vanilla*, *rectified* or one of the *lensllm* laws.

    The parameters are arrays (M,) over the candidates, NaN where a curve is too short. Raises
    DataError for a law that does not exist, when no curve has enough sizes, and when the law needs
    kernels or stopping times that the curves lack.

    >>> import numpy as np
    >>> sizes = 100 * 2.0 ** np.arange(6)
    >>> losses = 20 / (30 + sizes**0.5) + 1
    >>> fit = fit_law(Curves(("gpt2",), sizes, losses[None, :, None]))
    >>> fit.beta.round(3), fit.offset.round(1), fit.predict([12_800]).round(3)
    (array([0.5]), array([30.]), array([[1.14]]))
    """
    known = laws(kernel_scale)
    if law not in known:
        raise DataError(f"There is no law {law!r}: choose among {', '.join(known)}.")
    return known[law](curves)


__all__ = [
    "KernelScale",
    "LawFit",
    "evaluate",
    "fit_law",
    "fit_lensllm",
    "fit_rectified",
    "fit_vanilla",
    "fits_frame",
    "laws",
]
