"""Fits of the vanilla and the rectified law, and the result that every fit of a law has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from lensllm.curves.curve import Array, Curves, Mask
from lensllm.laws.descent import BETAS
from lensllm.laws.varpro import Solution, solve

_VALUES = (  # columns of law/fits after the candidate
    "law", "B", "beta", "E", "offset", "t", "scale", "transition_size", "rmse_log", "B_stderr",
    "beta_stderr", "E_stderr", "offset_stderr", "sizes",
)  # fmt: skip


@dataclass(frozen=True)
class LawFit:
    """L(D) = B / (offset + D^β) + E for M curves; (M,) arrays, NaN where a curve was too short.

    Standard errors are of the Gauss-Newton covariance of the log residuals. They are NaN without a
    degree of freedom, and for a parameter that was given or lies on its bound.
    """

    law: str  # vanilla | rectified | lensllm | lensllm_phase | lensllm_pooled
    candidates: tuple[str, ...]
    B: Array
    beta: Array
    E: Array
    offset: Array
    t: Array  # gradient-flow time of LensLLM's F; inf where F has run out, NaN for other laws
    scale: Array  # s of F = s φ(t); NaN for other laws
    rmse_log: Array  # root mean squared residual in log loss
    B_stderr: Array
    beta_stderr: Array
    E_stderr: Array
    offset_stderr: Array
    sizes: NDArray[np.int64]  # points fitted

    @property
    def transition_size(self) -> Array:
        """(M,) D* = offset^(1/β), where the pre-power phase gives way to the power phase."""
        with np.errstate(over="ignore"):  # a nearly flat curve has none: inf
            size: Array = self.offset ** (1 / self.beta)
        return size

    def predict(self, sizes: ArrayLike) -> Array:
        """(M, len(sizes)) loss at ``sizes``, all > 0."""
        D = np.atleast_1d(np.asarray(sizes, dtype=float))
        B, beta, E, offset = (x[:, None] for x in (self.B, self.beta, self.E, self.offset))
        loss: Array = B / (offset + D**beta) + E
        return loss


def fit_vanilla(curves: Curves) -> LawFit:
    """Fit L(D) = B / D^β + E (Hestness et al. 2017; equation 1 of Lin et al. 2024).

    Every curve with at least 3 sizes is fitted. Raises DataError when there is none.
    """
    losses = curves.require_sizes(3, "The vanilla law")
    found = solve(curves.sizes, losses, upper=0.0)
    return as_law_fit("vanilla", curves, losses, found, parameters=3, offset_free=False)


def fit_rectified(curves: Curves) -> LawFit:
    """Fit L(D) = B / (D_l + D^β) + E of Lin et al. 2024; D_l is the pre-learned size.

    Every curve with at least 4 sizes is fitted, to the global optimum on the sizes D > 0. Raises
    DataError when no curve has enough sizes.
    """
    losses = curves.require_sizes(4, "The rectified law")
    found = solve(curves.sizes, losses)
    return as_law_fit("rectified", curves, losses, found, parameters=4, offset_free=True)


def as_law_fit(
    law: str,
    curves: Curves,
    losses: Array,
    found: Solution,
    *,
    parameters: int,
    offset_free: Mask | bool,
    t: Array | float = np.nan,
    scale: Array | float = np.nan,
) -> LawFit:
    """The fit of a law with ``parameters`` per curve, from its solution for ``losses`` (M, S)."""
    points = np.isfinite(losses).sum(1)
    fitted = np.isfinite(found.B)
    B, beta, E, offset = _standard_errors(
        curves.sizes, losses, found, points - parameters, offset_free
    )
    return LawFit(
        law,
        curves.candidates,
        found.B,
        found.beta,
        found.E,
        found.offset,
        np.where(fitted, t, np.nan),
        np.where(fitted, scale, np.nan),
        np.sqrt(found.sum_squares / np.maximum(points, 1)),
        B,
        beta,
        E,
        offset,
        points,
    )


def fits_frame(fits: Iterable[LawFit]) -> pd.DataFrame:
    """The table ``law/fits``: one row per law and candidate."""
    frames = [
        pd.DataFrame({"candidate": fit.candidates} | {name: getattr(fit, name) for name in _VALUES})
        for fit in fits
    ]
    return pd.concat(frames, ignore_index=True)


def evaluate(row: Mapping[str, float] | pd.Series, sizes: ArrayLike) -> Array:
    """The fitted loss at ``sizes``, all > 0, from one row of ``law/fits``: the line of a plot."""
    B, beta, E, offset = (float(row[name]) for name in ("B", "beta", "E", "offset"))
    loss: Array = B / (offset + np.asarray(sizes, dtype=float) ** beta) + E
    return loss


def _standard_errors(
    sizes: Array, losses: Array, found: Solution, freedom: Array, offset_free: Mask | bool
) -> Array:
    """(4, M) standard errors of B, β, E, offset: √diag(σ² (JᵀJ)⁻¹), J the Jacobian of ln L."""
    B, beta, E, offset = (x[:, None] for x in (found.B, found.beta, found.E, found.offset))
    power = sizes**beta
    x = 1 / (offset + power)
    by = np.stack([x, -B * x**2 * power * np.log(sizes), np.ones_like(x), -B * x**2], -1)
    J = by / (B * x + E)[..., None]  # (M, S, 4)
    J = np.where(np.isfinite(losses)[..., None], J, 0.0)
    inside = (found.beta > BETAS[0] * 1.001) & (found.beta < BETAS[1] / 1.001)
    falls = found.B > 0
    free = np.stack(
        [falls, falls & inside, found.E > 0, falls & (found.offset > 0) & offset_free], -1
    )
    J = np.where(free[:, None], J, 0.0)
    norm = np.sqrt((J**2).sum(1))  # (M, 4)
    norm[norm == 0] = 1.0
    J = J / norm[:, None]
    values, vectors = np.linalg.eigh(J.swapaxes(1, 2) @ J + ~free[:, None] * np.eye(4))
    # directions that the data do not see get huge errors, not zero
    inverse = (vectors**2 / np.maximum(values, 1e-15)[:, None]).sum(-1)
    variance = np.where(freedom > 0, found.sum_squares / np.maximum(freedom, 1), np.nan)
    errors = np.sqrt(variance[:, None] * inverse) / norm
    errors = np.where(free, errors, np.nan)
    return errors.T
