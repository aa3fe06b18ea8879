"""Heavy-tail exponents of a model's weight spectra: what its weights say without any data.

The spectrum of a weight matrix W (N × M, N ≥ M) is the M eigenvalues of WᵀW. To its tail is fitted

- p(x) ∝ x^−α above the x_min that the Kolmogorov–Smirnov distance prefers (Martin and Mahoney
  2021), by the library weightwatcher;
- p(x) ∝ x^−β e^(−λx) above the peak of the spectrum (Yang et al. 2023, eq. 2, section 2), by the
  library powerlaw (Alstott et al. 2014), which weightwatcher calls for it.

PL_alpha and E_TPL_lambda are the means of α and λ over the matrices. Both libraries come with the
optional extra ``heavy-tails``; this module imports them, and torch, only when it measures.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lensllm.core.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from torch import nn

Array = NDArray[np.float64]

# With fewer eigenvalues weightwatcher changes its estimator of α.
_FEWEST = 20
# Smaller eigenvalues count as zero, as in weightwatcher.
_SMALLEST = 1e-5


@dataclass(frozen=True)
class HeavyTails:
    """Means over a model's weight matrices; NaN when none is large enough to fit."""

    pl_alpha: float  # α
    e_tpl_lambda: float  # λ, per eigenvalue: weights twice as large have a fourth of it
    layers: int  # matrices fitted


def measure(model: nn.Module) -> HeavyTails:
    """The heavy-tail exponents of ``model``; deterministic, on the CPU, in float64.

    Every weight matrix counts once, as does each expert of a stacked tensor. Embeddings and the
    output head are left out: with them candidates of unlike vocabulary do not compare.

    Raises ConfigError when the libraries are missing, ModelError for weights that are not finite.
    """
    check_installed()
    with _quiet():
        watcher = import_module("weightwatcher").WeightWatcher()
        powerlaw = import_module("powerlaw")
        found = [_fit(watcher, powerlaw, spectrum) for spectrum in _spectra(model)]
    fits = np.array([fit for fit in found if np.isfinite(fit).all()])
    if not len(fits):
        return HeavyTails(np.nan, np.nan, 0)
    alpha, decay = fits.mean(0).tolist()
    return HeavyTails(alpha, decay, len(fits))


def check_installed() -> None:
    """Raise ConfigError when ``measure`` lacks its libraries; imports nothing."""
    install = "run pip install 'lensllm[heavy-tails]' or set heavy_tails.enabled=false"
    try:
        found = {name: version(name) for name in ("weightwatcher", "powerlaw")}
    except PackageNotFoundError as error:
        raise ConfigError(f"heavy_tails: {error.name} is not installed; {install}") from None
    if not found["powerlaw"].startswith("1."):
        raise ConfigError(
            f"heavy_tails: powerlaw {found['powerlaw']} fits other exponents than the 1.x that "
            f"weightwatcher works with; {install}"
        )


def _spectra(model: nn.Module) -> Iterator[Array]:
    """The ascending eigenvalues of WᵀW of every matrix that has enough of them."""
    from torch import nn

    tables = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if head is not None:
        tables.append(head.weight)
    for name, weight in model.named_parameters():  # a tied weight is named once
        if weight.ndim < 2 or any(weight is table for table in tables):
            continue
        for matrix in weight.detach().reshape(-1, *weight.shape[-2:]):
            if min(matrix.shape) < _FEWEST:
                continue
            weights = matrix.cpu().double().numpy()
            if not np.isfinite(weights).all():
                raise ModelError(f"the weights {name} are not finite; the checkpoint is damaged")
            tall = weights if weights.shape[0] >= weights.shape[1] else weights.T
            values: Array = np.linalg.eigvalsh(tall.T @ tall)
            spectrum = values[values > _SMALLEST]
            if len(spectrum) >= _FEWEST:
                yield spectrum


def _fit(watcher: Any, powerlaw: Any, spectrum: Array) -> tuple[float, float]:
    """α and λ; not finite where a fit fails."""
    alpha, *_, status, _ = watcher.fit_powerlaw(spectrum, plot=False, thresh=_SMALLEST)
    # weightwatcher's own E_TPL also tries every eigenvalue below the peak as x_min: two minutes
    # for a million weights, and the paper wants the peak.
    counts, edges = np.histogram(np.log10(spectrum), bins="auto")
    peak = float(10 ** edges[counts.argmax()])
    tail = powerlaw.Fit(spectrum, xmin=peak, verbose=False).truncated_power_law
    if status != "success" or tail.noise_flag:
        return np.nan, np.nan
    return float(alpha), float(tail.Lambda)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep weightwatcher from configuring logging and warnings at import, and from printing."""
    root, own = logging.getLogger(), logging.getLogger("weightwatcher")
    silent = logging.NullHandler()
    root.addHandler(silent)  # logging.basicConfig does nothing where there is a handler
    own.disabled = True
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        own.disabled = False
        root.removeHandler(silent)
