"""The vanilla law L(D) = B / D^β + E (Hestness et al. 2017; equation 1 of Lin et al. 2024)."""

from __future__ import annotations

from lensllm.curves.curve import Curves
from lensllm.laws.fit import LawFit, law_fit
from lensllm.laws.varpro import solve

PARAMETERS = 3


def fit(curves: Curves) -> LawFit:
    """Fit every curve with at least 3 sizes. Raises DataError when there is none."""
    losses = curves.with_points(PARAMETERS, "The vanilla law")
    found = solve(curves.sizes, losses, upper=0.0)
    return law_fit("vanilla", curves, losses, found, parameters=PARAMETERS, offset_free=False)
