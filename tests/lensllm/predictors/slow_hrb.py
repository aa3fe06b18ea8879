"""HRB once more, by loops over candidates, shapes and components.

The flat prior on a curve's level is taken literally: only differences to its first point count.
"""

from itertools import product

import numpy as np
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, qmc

NOISE, JUMP = 0.004, 0.05


def predict(known, targets, count, prior, log_exponents=None):
    """Mean and sd of the log loss, (M, T) each, from ``count`` shapes."""
    first, second = np.full((2, len(known.candidates), len(targets)), np.nan)
    for fits, (weights, _, _) in posteriors(known, targets, count, prior, log_exponents):
        for (i, g), (_, found) in fits.items():
            for chance, _, mean, variance in found:
                share = weights[i, g] * chance / 2
                first[i] = np.nan_to_num(first[i]) + share * mean
                second[i] = np.nan_to_num(second[i]) + share * (mean**2 + variance)
    return first, np.sqrt(second - first**2)


def posteriors(known, targets, count, prior, log_exponents=None):
    """Fits and pool, of both kernels."""
    y = np.log(known.mean_losses)
    rows = [i for i in range(len(y)) if np.isfinite(y[i]).any()]
    unit = qmc.Sobol(4, scramble=True, seed=0).random(count)[:, :3]
    low, high = (np.log(0.04), np.log(50), -6), (np.log(1.2), np.log(1e9), 2.5)
    shapes = qmc.scale(unit, low, high)
    for kernel in (smooth, integrated):
        fits = {
            (i, g): members(known.sizes, targets, y[i], shapes[g], kernel)
            for i, g in product(rows, range(count))
        }
        yield fits, pool(known, rows, shapes, fits, prior, log_exponents)


def smooth(a, b):
    return 0.02**2 * np.exp(-0.5 * ((a - b) / 3) ** 2) + 0.004**2 * min(a, b)


def integrated(a, b):
    low, high = min(a, b), max(a, b)
    return 0.003**2 * low + 0.003**2 * (low**2 * high / 2 - low**3 / 6)


def log_g(D, shape):
    log_beta, log_D0, logit_e = shape
    e = 1 / (1 + np.exp(-logit_e))
    return np.log(e + (1 - e) / (1 + (D / np.exp(log_D0)) ** np.exp(log_beta)))


def members(sizes, targets, y, shape, kernel):
    """Log evidence of a shape, and (chance, level, mean, variance) of every jump or outlier."""
    seen = np.flatnonzero(np.isfinite(y))
    n, T = len(seen), len(targets)
    x = np.log2(np.append(sizes[seen], targets) / sizes[0])
    plain = np.array([[kernel(a, b) for b in x] for a in x])
    plain[range(n), range(n)] += NOISE**2
    shifts = [(0.8, np.zeros(n + T))]
    shifts += [(0.1 / (n - 1), np.arange(n + T) >= k) for k in range(1, n)]
    shifts += [(0.1 / n, np.arange(n + T) == k) for k in range(n)]
    r = y[seen] - log_g(sizes[seen], shape)
    u, less_first = r[1:] - r[0], np.eye(n + T) - np.eye(n + T)[0]
    found = []
    for prior, shift in shifts:
        K = plain + JUMP**2 * np.outer(shift, shift)
        apart = less_first @ K @ less_first.T
        inverse = np.linalg.inv(apart[1:n, 1:n])
        across, first = apart[n:, 1:n], (K @ less_first.T)[0, 1:n]
        evidence = multivariate_normal.logpdf(u, cov=apart[1:n, 1:n]) if n > 1 else 0.0
        found.append(
            (
                np.log(prior) + evidence,
                r[0] - first @ inverse @ u,
                r[0] + across @ inverse @ u + log_g(targets, shape),
                np.diag(apart[n:, n:] - across @ inverse @ across.T),
            )
        )
    total = logsumexp([evidence for evidence, *_ in found])
    return total, [(np.exp(evidence - total), *rest) for evidence, *rest in found]


def pool(known, rows, shapes, fits, prior, log_exponents):
    """After eight rounds of EM: {(candidate, shape): weight}, shared mean and variance."""
    families = known.families or ("",) * len(known.candidates)
    kinds = sorted({families[i] for i in rows} - {""})
    Z = np.array([[1.0, *(families[i] == kind for kind in kinds)] for i in rows])
    shift = np.zeros((len(rows), 3))
    if log_exponents is not None:
        own = log_exponents[rows]
        shift[:, 0] = np.where(np.isnan(own), 0, own - np.nanmean(own))
    sd0 = np.array(prior.sd)
    B0 = np.vstack([prior.mean, np.zeros((len(kinds), 3))])
    ridge = np.diag([5.0] + [3.0] * len(kinds))

    def value(i, g):  # ln β, ln D0, ln E
        log_beta, log_D0, logit_e = shapes[g]
        level = sum(chance * level for chance, level, _, _ in fits[i, g][1])
        return np.array([log_beta, log_D0, level - np.log1p(np.exp(-logit_e))])

    values = {(i, g): value(i, g) for i, g in fits}

    def weigh(B, variance):
        weights = {}
        for z, moved, i in zip(Z, shift, rows, strict=True):
            normal = multivariate_normal(z @ B + moved, np.diag(variance))
            logs = [fits[i, g][0] + normal.logpdf(values[i, g]) for g in range(len(shapes))]
            weights |= {(i, g): np.exp(log - logsumexp(logs)) for g, log in enumerate(logs)}
        return weights

    W = weigh(B0, sd0**2)
    for _ in range(8):
        m = [sum(W[i, g] * values[i, g] for g in range(len(shapes))) for i in rows]
        B = np.linalg.inv(Z.T @ Z + ridge) @ (Z.T @ (np.array(m) - shift) + ridge @ B0)
        centre = {i: z @ B + moved for z, moved, i in zip(Z, shift, rows, strict=True)}
        squares = sum(w * (values[i, g] - centre[i]) ** 2 for (i, g), w in W.items())
        variance = (squares + 5 * sd0**2) / (len(rows) + 5)
        W = weigh(B, variance)
    return W, B[0], variance
