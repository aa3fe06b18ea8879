"""The LensLLM law L(D) = B / (F(Θ, t) + D^β) + E (Zeng et al. 2025, equation 10).

F is how much of the pretrained model's residual gradient flow leaves after time t, from the kernel
(equations 8–9). It only sets the offset of the rectified law, so that

- *prediction* frees t: the offset is fitted anywhere in F's range [F(∞), F(0)], and t is read off;
- *phase* fixes t to the candidate's measured early-stopping time: the median over the sizes of
  the sum of learning rates up to the best step;
- *pooled* gives the candidates' t one prior, whose centre is fitted: ``pooled.py``.

F(0) = Σρ² grows with the number of probes, so that taken *literal* it caps the offset at about
that number. By default F is *scaled*, F = s φ(t) with φ = F(t)/F(0) and one fitted s for all
candidates. In prediction mode with φ(∞) = 0 a larger s never fits worse; s is then the smallest
that the data do not reject.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from lensllm.core.errors import DataError
from lensllm.curves.curve import Array, Curves
from lensllm.laws.fit import LawFit, as_law_fit
from lensllm.laws.pooled import pool
from lensllm.laws.varpro import profile, solve
from lensllm.spectra.spectrum import Spectrum

Mode = Literal["prediction", "phase", "pooled"]
KernelScale = Literal["scaled", "literal"]
PARAMETERS = {"prediction": 4, "phase": 3, "pooled": 4}  # per curve; s and μ come on top
_NAMES = {"prediction": "lensllm", "phase": "lensllm_phase", "pooled": "lensllm_pooled"}


def fit_lensllm(
    curves: Curves, mode: Mode = "prediction", kernel_scale: KernelScale = "scaled"
) -> LawFit:
    """Fit every curve that has enough sizes: 3 for *phase*, 4 for the other two.

    Raises DataError when no curve has, when the candidates have no kernels, or, in *phase*, no
    stopping times.
    """
    who = f"The LensLLM law ({mode})"
    losses = curves.require_sizes(PARAMETERS[mode], who)
    spectra = curves.spectra
    if spectra is None:
        raise DataError(
            f"{who} needs the kernel of every candidate: kernel.enabled is off, a kernel failed, "
            "or this is a replay, which has none."
        )
    initial = np.array([float(spectrum.residual(0.0)) for spectrum in spectra])
    s = initial if kernel_scale == "literal" else None
    t = np.full(len(spectra), np.nan)
    if mode == "phase":
        t = _stopping_times(curves, who)
        losses = np.where(np.isfinite(t)[:, None], losses, np.nan)
    elif mode == "pooled":
        pooled = pool(curves.sizes, losses, spectra, s)
        t, s = pooled.t, pooled.scale
    least, most = _range(spectra, t)
    if s is None:
        s = np.full_like(initial, np.exp(_log_scale(curves.sizes, losses, least, most)))
    found = solve(curves.sizes, losses, s * least, s * most)
    if mode == "prediction":
        remaining = found.offset / s * initial
        t = np.array([kernel.time(left) for kernel, left in zip(spectra, remaining, strict=True)])
    return as_law_fit(
        _NAMES[mode],
        curves,
        losses,
        found,
        parameters=PARAMETERS[mode],
        offset_free=(found.offset > s * least) & (found.offset < s * most * (1 - 1e-9)),
        t=t,
        scale=s,
    )


def _range(spectra: Sequence[Spectrum], t: Array) -> tuple[Array, Array]:
    """Least and most of φ, (M,) each: equal where ``t`` is known, else φ(∞) and 1."""
    known = np.isfinite(t)
    times = np.where(known, t, np.inf)
    least = np.array([float(k.share(time)) for k, time in zip(spectra, times, strict=True)])
    return least, np.where(known, least, 1.0)


def _stopping_times(curves: Curves, who: str) -> Array:
    """(M,) median over the sizes; NaN where none was recorded."""
    if curves.stop_times is None:
        raise DataError(f"{who} needs early-stopping times, and no cell recorded one.")
    rows = [row[np.isfinite(row)] for row in curves.stop_times]
    return np.array([np.median(row) if len(row) else np.nan for row in rows])


def _log_scale(sizes: Array, losses: Array, least: Array, most: Array) -> float:
    """ln s: the scale whose offsets, each within s·[least, most] (M,), fit all the curves best.

    Where a larger s only widens the ranges, the smallest within one unit of log-likelihood.
    """
    v, squares = profile(sizes, losses)
    low, high = (np.log(np.maximum(x, 1e-12)) for x in (least, most))
    scales = np.arange(v[0], v[-1] - high.min(), v[1] - v[0])
    total = np.zeros(len(scales))
    for i in np.flatnonzero(np.isfinite(losses).any(1)):
        ends = np.array([low[i], high[i]])[:, None] + scales
        within = (v >= ends[0][:, None]) & (v <= ends[1][:, None])
        inner = np.where(within, squares[:, i], np.inf).min(1)
        total += np.minimum(np.interp(ends, v, squares[:, i]).min(0), inner)
    points = np.isfinite(losses).sum()
    # log residuals below 1e-4 are as good as none
    misfit = points * np.log(total / points + 1e-8)
    if np.all(least < most):
        return float(scales[np.argmax(misfit <= misfit.min() + 1.0)])
    return _parabola(scales, misfit)


def _parabola(x: Array, y: Array) -> float:
    """The minimum of the parabola through the lowest point of y and its neighbours."""
    best = int(y.argmin())
    if best in (0, len(y) - 1):
        return float(x[best])
    before, at, after = y[best - 1 : best + 2]
    bend = before - 2 * at + after
    shift = 0.5 * (before - after) / bend if bend > 0 else 0.0
    return float(x[best] + shift * (x[1] - x[0]))
