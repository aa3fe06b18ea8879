"""The rectified law L(D) = B / (D_l + D^β) + E of Lin et al. 2024; D_l is the pre-learned size."""

from __future__ import annotations

from lensllm.curves.curve import Curves
from lensllm.laws.fit import LawFit, law_fit
from lensllm.laws.varpro import solve

PARAMETERS = 4


def fit(curves: Curves) -> LawFit:
    """Fit every curve with at least 4 sizes. Raises DataError when there is none.

    This is the global optimum on the sizes D > 0. Lin et al. also fit D = 0 and stop their
    optimiser early, which extrapolates better than the optimum on their own tables.
    """
    losses = curves.with_points(PARAMETERS, "The rectified law")
    found = solve(curves.sizes, losses)
    return law_fit("rectified", curves, losses, found, parameters=PARAMETERS, offset_free=True)
