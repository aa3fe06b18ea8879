"""The learning curve that kernel regression expects of a kernel: its risk by number of examples.

Kernel regression with kernel Θ on n examples, ridge δ, acts on the eigenfunctions of Θ as a filter
λ/(λ + κ), where κ solves Σ λ/(λ + κ) + δ/κ = n, and leaves the risk

    R(n, κ) = n B(κ) / (n − d₂(κ)),   d_p = Σ (λ/(λ + κ))^p,   B = Σ (κ/(λ + κ))² v²

(Bordelon, Canatar, Pehlevan 2020; Simon et al. 2021). The spectrum of the population is not known,
but generalised cross-validation on N probes tells d₁, d₂ and B (Wei, Hu, Steinhardt 2022): with
G = (K + δ)⁻¹ it has κ = 1/tr G and R(N) = N ρᵀG²ρ / (tr G)², hence

    d₁ = N − δ tr G,   d₂ = N − (tr G)² / tr G²,   B = ρᵀG²ρ / tr G².

Any κ with d₁ ≤ n is open to n examples, by some δ ≥ 0; early stopping is taken to find the best.
Risk is counted in units of the pretrained model's: only the kernel's shape matters.
"""

from __future__ import annotations

import numpy as np

from lensllm.spectra.spectrum import Array, Spectrum

_ROUNDING = 1e-9
_RIDGES = np.logspace(-4, 4, 200)  # in units of a probe's mean squared gradient


def risk(spectrum: Spectrum, sizes: Array) -> Array:
    """(S,) expected squared residual after ``sizes`` (S,) examples, as a share of the one before.

    Sizes lie between 1 and the number of probes N, beyond which they tell nothing; at N it is
    the least generalised cross-validation error.
    """
    values, power = spectrum.eigenvalues, spectrum.projections_squared
    count = len(values)
    n = np.asarray(sizes, dtype=float)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):  # no gradient, no residual, or n = d₂
        ridges = values.mean() * _RIDGES  # of K/N, like the eigenvalues
        G = 1 / (values + ridges[:, None])
        trace, squared = G.sum(1), (G**2).sum(1)
        degrees, degrees_2 = count - ridges * trace, count - trace**2 / squared
        bias = G**2 @ power / squared / power.mean()
        risks = np.where(degrees <= n, n * bias / (n - degrees_2), np.inf)
    least: Array = risks.min(1)
    return least


def exponent(spectrum: Spectrum) -> float:
    """How steeply the kernel's own learning curve falls: b of R(n) = 1/(1 + (n/n₀)^b).

    That is the rectified law without a floor, so b stands for β and n₀ for D0. ln(1/R − 1) is a
    line in ln n: b is its slope, by least squares over n = 1, 2, 4 … N. NaN where the kernel
    expects no gain from some n, and for a single probe.
    """
    sizes = 2.0 ** np.arange(np.floor(np.log2(len(spectrum.eigenvalues))) + 1)
    left = risk(spectrum, sizes)
    if len(sizes) < 2 or not np.all((left > 0) & (left < 1 - _ROUNDING)):
        return np.nan
    x, y = np.log(sizes), np.log(1 / left - 1)
    slope = float(np.polyfit(x, y, 1)[0])
    return slope if slope > 0 else np.nan
