"""The published way to fit the rectified law (Lin et al. 2024), re-implemented to compare with.

As the authors' public code does it (linhaowei1/Fine-tuning-Scaling-Law, ``src/fit_law.py`` and
``src/model_select.py``): curve by curve, scipy's BFGS with numerical gradients. The law is written
L(D) = (A − |E|) / (1 + exp(b) D^β) + |E|, so that A is the loss at D = 0 and D_l = exp(−b).

1. The relaxed loss: z_i² stands for exp(b) D_i^β, one variable per size, and what it lacks of that
   is added in squares, so that (A, b, β, E) and the z_i are found together.
2. A and E are fitted again, in squares of the log loss, with b and β kept.

Their code does this three times from the same start and so finds the same three times; here it is
done once. Where it ends hangs on rounding: BFGS stops early when its numerical gradient is noise.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize

from lensllm.curves.curve import Array, Curves

NEARLY_NONE = 1e-10  # the size that stands for D = 0, which has no logarithm


def predict(curves: Curves, target: float) -> Array:
    """(M,) loss at ``target``, their selection method OurFit: D = 0, where known, is fitted too."""
    sizes, losses = curves.sizes, curves.mean_losses
    if curves.zero_shot is not None:
        sizes = np.array([NEARLY_NONE, *sizes])
        losses = np.column_stack([curves.zero_shot, losses])
    return evaluate(fit(sizes, losses), np.array([target]))[:, 0]


def fit(sizes: Array, losses: Array, draw: np.random.Generator | None = None) -> Array:
    """(M, 4) parameters A, b, β, E for ``losses`` (M, S) at ``sizes`` (S,), NaN for missing cells.

    NaN where A ≤ E, which the authors' code refuses too. With ``draw`` the start is a random one.
    """
    found = np.full((len(losses), 4), np.nan)
    for i, row in enumerate(losses):
        seen = np.isfinite(row)
        log_sizes, log_losses = np.log(sizes[seen]), np.log(row[seen])
        start = _start(log_losses) if draw is None else _anywhere(log_sizes, log_losses, draw)
        with np.errstate(all="ignore"):  # bad steps of the line search
            parameters = _fit(log_sizes, log_losses, *start)
        if parameters[0] > parameters[3]:
            found[i] = parameters
    return found


def evaluate(parameters: Array, sizes: Array) -> Array:
    """(M, S) loss at ``sizes`` (S,) of the law with ``parameters`` (M, 4)."""
    return np.exp(_log_loss(np.log(sizes), *parameters.T[..., None]))


def _log_loss(
    log_sizes: Array, A: Array | float, b: Array | float, beta: Array | float, E: Array | float
) -> Array:
    floor = np.abs(E)
    log_loss: Array = np.log((A - floor) / (1 + np.exp(b + beta * log_sizes)) + floor)
    return log_loss


def _start(log_losses: Array) -> tuple[Array, Array]:
    """(A, b, β, E) and z, (S,): the highest loss, no shift, β = 1, E halfway in log loss."""
    top, bottom = log_losses.max(), log_losses.min()
    start = np.array([np.exp(top), 0.0, 1.0, np.exp((top + bottom) / 2)])
    return start, np.ones_like(log_losses)


def _anywhere(
    log_sizes: Array, log_losses: Array, draw: np.random.Generator
) -> tuple[Array, Array]:
    """A random start: the transition within the sizes or below, z where the law has it."""
    A = np.exp(log_losses.max() + draw.exponential(0.3))
    E = np.exp(log_losses.min()) * draw.uniform()
    beta = np.exp(draw.uniform(np.log(0.05), np.log(1.5)))
    b = -beta * draw.uniform(log_sizes[0] - 3, log_sizes[-1])
    return np.array([A, b, beta, E]), np.exp((b + beta * log_sizes) / 2)


def _fit(log_sizes: Array, log_losses: Array, start: Array, z: Array) -> Array:
    def relaxed(variables: Array) -> float:
        A, b, beta, E = variables[:4]
        ratio = variables[4:] ** 2
        misfit = np.log(A + np.abs(E) * ratio) - np.log(1 + ratio) - log_losses
        lacking = np.log(ratio) - beta * log_sizes - b
        return float(np.square(misfit).mean() + np.square(lacking).mean())

    A, b, beta, E = minimize(relaxed, np.concatenate([start, z]), method="BFGS").x[:4]

    def squares(levels: Array) -> float:
        misfit = _log_loss(log_sizes, levels[0], b, beta, levels[1]) - log_losses
        return float(np.square(misfit).mean())

    A, E = minimize(squares, np.array([A, E]), method="BFGS").x
    return np.array([A, b, beta, E])
