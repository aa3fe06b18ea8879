"""HRB: a hierarchical rectified law with a discrepancy term, averaged over its posterior.

Every curve follows ln L = ln S + ln g + discrepancy with the rectified law's shape
g = e + (1 − e)/(1 + (D/D0)^β) of Lin et al. 2024 (E = S e, D_l = D0^β). What the law cannot explain
is a Gaussian process over the doublings of D (``lensllm.predictors.discrepancy``). The candidates
share a normal prior on (ln β, ln D0, ln E), learnt from all of them: a short curve borrows from the
others. No optimiser is involved: the same quasi-random shapes are weighed for all curves at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import qmc

from lensllm.curves.curve import Array, Curves, Mask, nan_mean
from lensllm.predictors import discrepancy
from lensllm.predictors.predictor import Input, Prediction

# Bounds of ln β, ln D0 and logit e, for sizes between SMALLEST and LARGEST.
_LOW = np.array([np.log(0.04), np.log(50.0), -6.0])
_HIGH = np.array([np.log(1.2), np.log(1e9), 2.5])
SMALLEST, LARGEST = 200.0, 2e6
_MOST_SHAPES, _FEWEST_SHAPES = 8192, 256
_WORK = 2**24  # candidates × components × shapes in memory; beyond it fewer shapes are weighed
_ITERATIONS = 8  # of EM; the shared prior hardly moves after them
_MEAN_WEIGHT, _SD_WEIGHT = 5.0, 5.0  # of the prior's mean and sd, in candidates
_FAMILY_WEIGHT = 3.0  # of no difference between the families

Index = NDArray[np.intp]


@dataclass(frozen=True)
class Prior:
    """Normal prior of (ln β, ln D0, ln E): D0^β is the rectified law's D_l, E its floor.

    The default was set on fine-tuning losses in nats per token of models up to 6.7B weights, on
    subsets of 200 to 2,000,000 examples; for other sizes D0 is moved (``Scale``).
    """

    mean: tuple[float, float, float] = (log(0.25), 10.5, log(0.4))
    sd: tuple[float, float, float] = (0.4, 2.5, 0.8)


DEFAULT_PRIOR = Prior()


@dataclass(frozen=True)
class Scale:
    """Range of ln D0: ``offset + width · ln D0`` of the usual sizes."""

    offset: float
    width: float

    @classmethod
    def of(cls, smallest: float, target: float) -> Scale:
        """Moved, and where need be stretched, to hold sizes beyond the usual 200 … 2,000,000."""
        low, high = SMALLEST, LARGEST
        if smallest < SMALLEST:
            low, high = smallest, max(target, smallest * LARGEST / SMALLEST)
        elif target > LARGEST:
            low, high = min(smallest, target * SMALLEST / LARGEST), target
        width = np.log(high / low) / np.log(LARGEST / SMALLEST)
        return cls(float(np.log(low) - width * np.log(SMALLEST)), float(width))

    def usual(self, mean: Array, sd: Array) -> tuple[Array, Array]:
        """(ln β, ln D0, ln E) as they would be at the usual sizes: the inverse of ``moved``."""
        offset, width = np.array([0, self.offset, 0]), np.array([1, self.width, 1])
        return (mean - offset) / width, sd / width

    def moved(self, prior: Prior) -> Prior:
        """The prior with D0 on this scale."""
        (beta, D0, E), (beta_sd, D0_sd, E_sd) = prior.mean, prior.sd
        return Prior((beta, self.offset + self.width * D0, E), (beta_sd, self.width * D0_sd, E_sd))


@dataclass(frozen=True)
class _Shapes:
    """G shapes of the law."""

    log_beta: Array  # (G,)
    log_D0: Array  # (G,)
    log_e: Array  # (G,)
    log_g: Array  # (G, S) at the observed sizes
    at_targets: Array  # (G, T)


@dataclass(frozen=True)
class _Problem:
    """Input of both kinds of discrepancy; M counts the candidates with any size."""

    seen: Mask  # of all candidates, which have
    y: Array  # (M, S) log losses, NaN where missing
    sizes: Array  # (S,)
    targets: Array  # (T,)
    design: Array  # (M, 1 + families) ones, and one-hot families
    shift: Array  # (M, 3) of the prior's mean, beside the design
    scale: Scale
    prior: Prior  # on that scale
    shapes: _Shapes

    @classmethod
    def of(
        cls, curves: Curves, targets: Array, prior: Prior, log_exponents: Array | None = None
    ) -> _Problem:
        log_losses = np.log(curves.mean_losses)
        seen: Mask = np.isfinite(log_losses).sum(1) > 0
        y, sizes = log_losses[seen], curves.sizes
        scale = Scale.of(sizes[0], max(targets.max(), sizes[-1]))
        shift = np.zeros((len(y), 3))
        if log_exponents is not None:
            own = log_exponents[seen]
            shift[:, 0] = np.nan_to_num(own - nan_mean(own, axis=0))
        return cls(
            seen, y, sizes, targets, _design(curves.families, seen), shift, scale,
            scale.moved(prior), _shapes(sizes, targets, scale, 2 * y.size),
        )  # fmt: skip


@dataclass(frozen=True)
class _Part:
    """Candidates observed at the same sizes."""

    rows: Index  # (m,) which candidates
    columns: Index  # (n,) which sizes
    components: list[discrepancy.Component]  # C
    shares: Array  # (C, m, G) of the components


@dataclass(frozen=True)
class _Fit:
    """All shapes under one kind of discrepancy, and what the candidates share of them."""

    parts: list[_Part]
    mean: Array  # (3,) of (ln β, ln D0, ln E) of a candidate of no family
    variance: Array  # (3,)
    weights: Array  # (M, G) of the shapes


@dataclass(frozen=True)
class Hrb:
    """The hierarchical rectified law; its prediction has the posterior's sd of the log loss."""

    prior: Prior = DEFAULT_PRIOR

    version: ClassVar[int] = 1
    reads: ClassVar[tuple[Input, ...]] = ("past",)
    needed_sizes: ClassVar[int] = 1

    def predict(self, curves: Curves, targets: Array) -> Prediction:
        """The posterior at ``targets`` (T,). Raises DataError when no candidate has any size."""
        return posterior(curves, targets, self.prior)


def posterior(
    curves: Curves, targets: Array, prior: Prior, log_exponents: Array | None = None
) -> Prediction:
    """The mean of the log loss over both kinds of discrepancy, the sd of their mixture.

    ``log_exponents`` (M,) moves the prior's mean of ln β from candidate to candidate; only
    differences count. Raises DataError when no candidate has any size.
    """
    curves.require_sizes(1, "hrb")
    problem = _Problem.of(curves, targets, prior, log_exponents)
    fits = [_fit(problem, kernel) for kernel in discrepancy.KERNELS]
    first, second = np.mean([_moments(problem, fit) for fit in fits], axis=0)
    mean, sd = np.full((2, len(curves.candidates), len(targets)), np.nan)
    mean[problem.seen], sd[problem.seen] = first, np.sqrt(second - first**2)
    return Prediction(np.exp(mean), sd)


def learn(past: Sequence[Curves]) -> Prior:
    """The prior that curves of other data sets teach; the built-in one counts as one more."""
    means, variances = [np.array(DEFAULT_PRIOR.mean)], [np.square(DEFAULT_PRIOR.sd)]
    for curves in past:
        problem = _Problem.of(curves, curves.sizes[-1:], DEFAULT_PRIOR)
        fits = [_fit(problem, kernel) for kernel in discrepancy.KERNELS]
        mean, sd = problem.scale.usual(
            np.mean([fit.mean for fit in fits], axis=0),
            np.sqrt(np.mean([fit.variance for fit in fits], axis=0)),
        )
        means.append(mean)
        variances.append(sd**2)
    variance = np.mean(variances, axis=0) + np.var(means, axis=0)
    return Prior(tuple(np.mean(means, axis=0).tolist()), tuple(np.sqrt(variance).tolist()))


def _shapes(sizes: Array, targets: Array, scale: Scale, work: int) -> _Shapes:
    """The first points of a scrambled Sobol sequence; ``work`` is candidates × components."""
    count = _MOST_SHAPES
    while count > _FEWEST_SHAPES and count * work > _WORK:
        count //= 2
    # three of four dimensions: another sequence would be as good and give other predictions
    points = qmc.Sobol(4, scramble=True, seed=0).random(count)[:, :3]
    log_beta, log_D0, logit_e = (_LOW + points * (_HIGH - _LOW)).T
    log_D0 = scale.offset + scale.width * log_D0
    e = expit(logit_e)[:, None]

    def log_g(D: Array) -> Array:
        grown = np.exp(np.exp(log_beta)[:, None] * (np.log(D) - log_D0[:, None]))
        logs: Array = np.log(e + (1 - e) / (1 + grown))
        return logs

    return _Shapes(log_beta, log_D0, np.log(e[:, 0]), log_g(sizes), log_g(targets))


def _fit(problem: _Problem, kernel: discrepancy.Kernel) -> _Fit:
    """Weigh every shape by the curves and by a prior that all candidates share."""
    y, sizes, shapes = problem.y, problem.sizes, problem.shapes
    doublings, ahead = np.log2(sizes / sizes[0]), np.log2(problem.targets / sizes[0])
    log_evidence, log_S = np.empty((2, len(y), len(shapes.log_beta)))
    parts = []
    seen = np.isfinite(y)
    for pattern in np.unique(seen, axis=0):
        rows, columns = np.flatnonzero((seen == pattern).all(1)), np.flatnonzero(pattern)
        components = discrepancy.components(doublings[columns], ahead, kernel)
        observed, g = y[np.ix_(rows, columns)], shapes.log_g[:, columns]
        shares = _log_evidence(components, observed, g)
        peak = shares.max(0)  # (m, G)
        np.exp(np.subtract(shares, peak, out=shares), out=shares)
        total = shares.sum(0)
        shares /= total
        log_evidence[rows] = peak + np.log(total)
        # ln Ŝ of a component is what the curve says less what the shape says
        by_curve = np.stack([observed @ c.level for c in components])
        by_shape = np.stack([g @ c.level for c in components])
        log_S[rows] = np.einsum("cmg,cm->mg", shares, by_curve)
        log_S[rows] -= np.einsum("cmg,cg->mg", shares, by_shape)
        parts.append(_Part(rows, columns, components, shares))
    return _Fit(parts, *_pool(problem, log_evidence, log_S + shapes.log_e))


def _log_evidence(components: list[discrepancy.Component], y: Array, g: Array) -> Array:
    """(C, m, G) of residuals y − g: y (m, n), g (G, n)."""
    # the precision ignores constants: without them the products below lose no digits to each other
    y, g = y - y.mean(1, keepdims=True), g - g.mean(1, keepdims=True)
    evidence = np.empty((len(components), len(y), len(g)))
    # all three terms of the square in one product: ½ log weight is twice the price of memory
    left, right = np.ones((len(y), y.shape[1] + 2)), np.ones((y.shape[1] + 2, len(g)))
    right[:-2] = g.T
    for component, out in zip(components, evidence, strict=True):
        P = component.precision
        left[:, :-2] = y @ P
        left[:, -2] = component.log_weight - 0.5 * (left[:, :-2] * y).sum(1)
        right[-1] = -0.5 * ((g @ P) * g).sum(1)
        np.matmul(left, right, out=out)
    return evidence


def _pool(problem: _Problem, log_evidence: Array, log_E: Array) -> tuple[Array, Array, Array]:
    """Mean (3,) and variance (3,) of the shared prior and the shapes' weights (M, G), by EM."""
    shapes, design, shift, prior = problem.shapes, problem.design, problem.shift, problem.prior
    count, columns = design.shape
    strength = np.diag([_MEAN_WEIGHT] + [_FAMILY_WEIGHT] * (columns - 1))
    B0 = np.zeros((columns, 3))
    B0[0] = prior.mean
    variance0 = np.square(prior.sd)
    mean: Array = design @ B0 + shift
    variance = variance0

    shared, own = np.stack([shapes.log_beta, shapes.log_D0]), (log_E, log_E**2)

    def weights() -> Array:
        # the exponent of the prior's density, without what is the same for all shapes
        exponent = mean / variance
        posterior = exponent[:, :2] @ shared - 0.5 / variance[:2] @ shared**2
        posterior += exponent[:, [2]] * own[0]
        posterior -= 0.5 / variance[2] * own[1]
        posterior += log_evidence
        posterior -= posterior.max(1, keepdims=True)
        np.exp(posterior, out=posterior)
        posterior /= posterior.sum(1, keepdims=True)
        return posterior

    def moment(W: Array, power: int) -> Array:  # (M, 3) under the weights
        return np.column_stack([W @ (shared**power).T, np.vecdot(W, own[power - 1])])

    for _ in range(_ITERATIONS):
        W = weights()
        m = moment(W, 1)
        B = np.linalg.solve(design.T @ design + strength, design.T @ (m - shift) + strength @ B0)
        mean = design @ B + shift
        squares = (moment(W, 2) - 2 * mean * m + mean**2).sum(0)
        variance = (squares + _SD_WEIGHT * variance0) / (count + _SD_WEIGHT)
    return B[0], variance, weights()


def _moments(problem: _Problem, fit: _Fit) -> Array:
    """(2, M, T) posterior mean of the log loss at the targets, and of its square."""
    y, shapes = problem.y, problem.shapes
    moments = np.zeros((2, len(y), shapes.at_targets.shape[1]))
    for part in fit.parts:
        observed, g = y[np.ix_(part.rows, part.columns)], shapes.log_g[:, part.columns]
        for component, shares in zip(part.components, part.shares, strict=True):
            # the mean splits into what the curve says and what the shape says
            step = component.level[:, None] + component.gain  # (n, T)
            by_curve, by_shape = observed @ step, shapes.at_targets - g @ step
            chance = fit.weights[part.rows] * shares
            total, shaped = chance.sum(1)[:, None], chance @ by_shape
            moments[0, part.rows] += total * by_curve + shaped
            moments[1, part.rows] += (
                total * (component.variance + by_curve**2)
                + 2 * by_curve * shaped
                + chance @ by_shape**2
            )
    return moments


def _design(families: tuple[str, ...] | None, seen: Mask) -> Array:
    """(M, 1 + families) ones and one-hot families of the candidates that were seen."""
    ones = np.ones((int(seen.sum()), 1))
    if families is None:
        return ones
    names = np.array(families)[seen]
    known = sorted(set(names) - {""})
    return np.hstack([ones, (names[:, None] == np.array(known)).astype(float)]) if known else ones
