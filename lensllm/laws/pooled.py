"""The *pooled* mode of the LensLLM law: candidates of one recipe share a time, more or less.

    offset_c = s φ_c(t_c),   ln t_c ~ N(μ, sd²),   φ = F(t)/F(0)

for every candidate c, with one s and one prior. (s, μ, sd) are where the evidence is highest, every
t_c integrated out; t_c is then the most probable one. All of it is read from each curve's sum of
squares by offset, (B, β, E) being at their best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

from lensllm.curves.curve import Array
from lensllm.laws.varpro import profile
from lensllm.spectra.spectrum import Spectrum

_SPREADS = (0.1, 0.25, 0.6, 1.5)  # sd of ln t; a few curves cannot tell it more finely
_LEAST_VARIANCE = 1e-6  # of the log losses: no curve is known better than to a thousandth
_STEP = 0.05  # of ln t
_FINE = 0.02  # of ln offset
_CURVE = 3  # parameters of a curve beside its offset


@dataclass(frozen=True)
class Pool:
    """The shared parameters of the curves, and t of each."""

    t: Array  # (M,) NaN without a curve
    scale: Array  # (M,) s, one number unless it was stated
    centre: float  # μ
    spread: float  # sd


@dataclass(frozen=True)
class _Tables:
    """The sums of squares of M curves by ln offset, and their kernels by ln t."""

    sum_squares: Array  # (N, M), at ln offset = lowest + _FINE · index
    lowest: float
    log_times: Array  # (T,)
    log_shares: Array  # (M, T) ln φ

    def squares(self, log_scales: Array) -> Array:
        """(…, M, T) sum of squares of every curve at every time; ``log_scales`` is (…, M)."""
        v = log_scales[..., None] + self.log_shares
        index = np.rint((v - self.lowest) / _FINE).astype(np.intp)
        index = np.clip(index, 0, len(self.sum_squares) - 1)
        found: Array = self.sum_squares[index, np.arange(len(self.log_shares))[:, None]]
        return found

    def evidence(self, log_scales: Array, priors: Array, variance: float) -> Array:
        """(K, P) log of the curves' probability but for a constant; ``log_scales`` is (K, M),
        ``priors`` (2, P) of μ and sd."""
        squares = self.squares(log_scales)
        likelihood = np.exp((self.sum_squares.min(0)[:, None] - squares) / (2 * variance))
        centres, spreads = priors
        prior = np.exp(-0.5 * ((self.log_times[:, None] - centres) / spreads) ** 2)
        prior /= prior.sum(0)
        log_evidence: Array = np.log(likelihood @ prior + 1e-300).sum(1)
        return log_evidence

    def most_probable(
        self, log_scales: Array, prior: Array, variance: float
    ) -> tuple[Array, float]:
        """ln t of every curve, (M,), and the sum of squares of all there."""
        squares = self.squares(log_scales)
        away = squares / variance + ((self.log_times - prior[0]) / prior[1]) ** 2
        best = away.argmin(1)
        return self.log_times[best], float(squares[np.arange(len(best)), best].sum())


def pool(
    sizes: Array, losses: Array, spectra: Sequence[Spectrum], scales: Array | None = None
) -> Pool:
    """Fit s, unless ``scales`` (M,) states it, μ, sd, and t of every curve.

    ``losses`` (M, S) as for ``varpro.solve``, every curve with more than three points.
    """
    fitted = np.flatnonzero(np.isfinite(losses).any(1))
    known = [spectra[int(i)] for i in fitted]
    tables, log_offsets = _tables(sizes, losses[fitted], known)
    base = np.zeros(len(losses)) if scales is None else np.log(scales)
    shifts = log_offsets[::2] if scales is None else np.zeros(1)
    freedom = int(np.isfinite(losses).sum()) - _CURVE * len(known)
    # the noise is that of what the fit leaves, from a fit with every offset free onwards
    variance = max(float(tables.sum_squares.min(0).sum()) / freedom, _LEAST_VARIANCE)
    for _ in range(3):
        shift, prior = _best(tables, base[fitted], shifts, variance)
        log_t, squares = tables.most_probable(base[fitted] + shift, prior, variance)
        variance = max(squares / freedom, _LEAST_VARIANCE)
    t = np.full(len(losses), np.nan)
    t[fitted] = np.exp(log_t)
    return Pool(t, np.exp(base + shift), *map(float, prior))


def _tables(sizes: Array, losses: Array, spectra: Sequence[Spectrum]) -> tuple[_Tables, Array]:
    """The tables reused by every evaluation, on an (N,) grid of ln offset."""
    coarse, squares = profile(sizes, losses)
    squares = CubicSpline(coarse, squares)(np.arange(coarse[0], coarse[-1], _FINE))
    log_times = np.arange(*_range(spectra), _STEP)
    shares = np.array([spectrum.share(np.exp(log_times)) for spectrum in spectra])
    log_shares = np.log(np.maximum(shares, 1e-12))
    return _Tables(np.maximum(squares, 0.0), coarse[0], log_times, log_shares), coarse


def _range(spectra: Sequence[Spectrum]) -> tuple[float, float]:
    """ln t from where no kernel has decayed to where all have, to a thousandth."""
    ends = []
    for spectrum in spectra:
        last, first = spectrum.unreachable, float(spectrum.residual(0.0))
        ends += [spectrum.time(last + part * (first - last)) for part in (0.999, 0.001)]
    usable = [end for end in ends if 0 < end < np.inf] or [1.0]  # a kernel of zeros has no time
    return float(np.log(min(usable))), float(np.log(max(usable))) + _STEP


def _best(tables: _Tables, base: Array, shifts: Array, variance: float) -> tuple[float, Array]:
    """ln s beyond ``base`` (M,) and (μ, sd) of the highest evidence.

    On a coarse grid, then between the neighbours of its best.
    """
    first, last = tables.log_times[[0, -1]]
    centres = [np.arange(first, last + _STEP, max(sd, _STEP) / 2) for sd in _SPREADS]
    pairs = zip(centres, _SPREADS, strict=True)
    priors = np.hstack([[mu, np.full_like(mu, sd)] for mu, sd in pairs])
    k, p = _highest(tables.evidence(base + shifts[:, None], priors, variance))
    centre, sd = priors[:, p]
    reach = max(sd, _STEP) / 2
    priors = np.stack([centre + np.linspace(-reach, reach, 15), np.full(15, sd)])
    shifts = np.linspace(shifts[max(k - 1, 0)], shifts[min(k + 1, len(shifts) - 1)], 15)
    k, p = _highest(tables.evidence(base + shifts[:, None], priors, variance))
    return float(shifts[k]), priors[:, p]


def _highest(values: Array) -> tuple[int, int]:
    row, column = np.unravel_index(values.argmax(), values.shape)
    return int(row), int(column)
