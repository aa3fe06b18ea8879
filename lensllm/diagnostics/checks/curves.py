"""LENS104 and LENS105: steps of a learning curve that no law makes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lensllm.curves.curve import Array, Curves, nan_mean
from lensllm.diagnostics.checks.check import Issue, RankingEvidence, by_candidate, check

_PRIOR_NOISE_LOG = 0.004  # between seeds, where neither seeds nor three sizes show it
# At these limits none of 36,000 rectified laws with β < .9 and noise of .1 or .4 % fired, while a
# jump of 10 % in one of 6 or 30 curves was found at least 8 times of 10, from 5 sizes on.
LEAST_LOG = 0.03
LEAST_NOISES = 8.0
LEAST_SHARE = 0.5  # of the steepest neighbouring step
_END_FACTOR = 2.0  # β = 1
_RETURN = 1 / 3  # of a departure: an outlier at the second size returns from the first only so much
_NEIGHBOURS = 2  # steps on either side
_FEWEST_SIZES = 4
_FEWEST_CANDIDATES = 3  # to tell what they share
RISE_NOISES = 3.0  # at 2, one step in 44 of a flat curve would count as a rise; at 3, one in 740


@dataclass(frozen=True)
class Points:
    """The n measured points of one candidate's curve."""

    candidate: str
    sizes: Array  # (n,)
    log_losses: Array  # (n,) of the mean over the seeds
    noise: Array  # (n,) standard deviation of the log losses
    columns: NDArray[np.intp]  # (n,) their places among the sizes of all candidates


def points(curves: Curves) -> Iterator[Points]:
    """Every candidate's curve without its gaps."""
    if not np.isfinite(curves.losses).any():
        return
    noise = noise_log(curves)
    counts = np.isfinite(curves.losses).sum(-1)
    for name, losses, count in zip(curves.candidates, curves.mean_losses, counts, strict=True):
        columns = np.flatnonzero(count)
        yield Points(
            candidate=name,
            sizes=curves.sizes[columns],
            log_losses=np.log(losses[columns]),
            noise=noise / np.sqrt(count[columns]),
            columns=columns,
        )


def noise_log(curves: Curves) -> float:
    """Standard deviation of one run's log loss: between seeds, else from second differences.

    A smooth curve's y(j−1) − 2 y(j) + y(j+1) is noise of variance 6σ² plus curvature. What the
    candidates' curves share of it is taken out; the median over the rest errs a little upwards.
    """
    logs = np.log(curves.losses)
    count = np.isfinite(logs).sum(-1)
    if np.any(count > 1):
        squares = np.nansum((logs - nan_mean(logs, axis=-1)[..., None]) ** 2, axis=-1)
        return float(np.sqrt(squares[count > 1].sum() / (count[count > 1] - 1).sum()))
    bends = np.diff(np.log(curves.mean_losses), n=2, axis=1)
    others = np.isfinite(bends).sum(0) - 1
    bends = np.where(others > 0, bends - nan_mean(bends, axis=0), bends)
    bends = np.abs(bends) * np.sqrt((others + 1) / np.maximum(others, 1))
    bends = bends[np.isfinite(bends)]
    # .6745: the median of |x| for a standard normal x
    return float(np.median(bends) / (0.6745 * np.sqrt(6))) if len(bends) else _PRIOR_NOISE_LOG


@check(
    "LENS104",
    "A jump or an outlier in a curve",
    tip="run the cells at that size again with another seed, and doubt this extrapolation till "
    "then",
    passed="No curve jumps, and none has an outlier",
    not_applicable=f"no candidate has {_FEWEST_SIZES} sizes",
)
def jumps(evidence: RankingEvidence) -> list[Issue] | None:
    """The largest departure of every candidate whose curve leaves its own course.

    No step of a law in log-log is much steeper, or flatter, than those on both sides of it. At
    either end there is one side only: the slope changes by the factor 2^β per doubling at most.
    """
    long = [p for p in points(evidence.curves) if len(p.sizes) >= _FEWEST_SIZES]
    if not long:
        return None
    details = {}
    for p, departure in zip(long, _departures(evidence.curves, long), strict=True):
        excess = np.abs(departure) / _limits(p)
        worst = int(excess.argmax())
        if excess[worst] > 1:
            details[p.candidate] = _described(p.sizes, departure, worst)
    return by_candidate("A curve leaves its course", details)


@check(
    "LENS105",
    "A curve rises",
    tip="look at the learning rate and the epochs of these cells, for no law describes such a "
    "curve",
    passed="No loss rises with more data by more than its noise",
    not_applicable="no candidate has two sizes",
)
def rises(evidence: RankingEvidence) -> list[Issue] | None:
    """The largest rise, relative to its noise, of every candidate that has one."""
    long = [p for p in points(evidence.curves) if len(p.sizes) > 1]
    details = {}
    for p in long:
        rise = np.diff(p.log_losses)
        noise = np.hypot(p.noise[1:], p.noise[:-1])
        excess = rise - RISE_NOISES * noise
        if excess.max() > 0:
            worst = int(excess.argmax())
            details[p.candidate] = (
                f"{100 * np.expm1(rise[worst]):+.1f} % from {p.sizes[worst]:,.0f} "
                f"to {p.sizes[worst + 1]:,.0f}, noise {100 * noise[worst]:.1f} %"
            )
    return by_candidate("The loss rises with more data", details) if long else None


def _departures(curves: Curves, long: list[Points]) -> list[Array]:
    """Per candidate (n − 1,) log losses by which each step departs; what all share taken out."""
    alone = [_off_course(p) for p in long]
    steps = np.full((len(long), len(curves.sizes)), np.nan)  # in the column where they end
    for row, p, departure in zip(steps, long, alone, strict=True):
        row[p.columns[1:]] = departure
    shared = np.zeros(len(curves.sizes))
    for column, values in enumerate(steps.T):
        known = values[np.isfinite(values)]
        if len(known) >= _FEWEST_CANDIDATES:
            shared[column] = np.median(known)
    return [a - shared[p.columns[1:]] for a, p in zip(alone, long, strict=True)]


def _off_course(p: Points) -> Array:
    """(n − 1,) how far each step is outside the range of its neighbours, in log loss."""
    x = np.log2(p.sizes)
    gaps, middles = np.diff(x), (x[1:] + x[:-1]) / 2
    slopes = np.diff(p.log_losses) / gaps
    outside: Array = np.empty_like(slopes)
    for j, slope in enumerate(slopes):
        around = list(slopes[_neighbours(j, len(slopes))])
        if j in (0, len(slopes) - 1):
            next_to = 1 if j == 0 else j - 1
            factor = _END_FACTOR ** abs(middles[j] - middles[next_to])
            around += [slopes[next_to] * factor, slopes[next_to] / factor]
        outside[j] = slope - np.clip(slope, min(around), max(around))
    outside *= gaps
    return outside


def _limits(p: Points) -> Array:
    """(n − 1,) what a departure must exceed; short steps next to a long one say little about it."""
    gaps = np.diff(np.log2(p.sizes))
    slopes = np.abs(np.diff(p.log_losses) / gaps)
    around = [_neighbours(j, len(gaps)) for j in range(len(gaps))]
    shortest = np.array([gaps[k].min() for k in around])
    steepest = np.array([slopes[k].max() for k in around])
    noise = np.maximum(p.noise[1:], p.noise[:-1])
    least = np.maximum(LEAST_LOG, LEAST_NOISES * noise) * np.maximum(gaps / shortest, 1.0)
    limits: Array = np.maximum(least, LEAST_SHARE * steepest * gaps)
    return limits


def _neighbours(step: int, count: int) -> list[int]:
    """The nearest steps on both sides."""
    around = range(max(step - _NEIGHBOURS, 0), min(step + _NEIGHBOURS + 1, count))
    return [k for k in around if k != step]


def _described(sizes: Array, departure: Array, step: int) -> str:
    """The departure in words: an outlier is a step off the course with one back next to it.

    At either end of a curve an outlier and a jump cannot be told apart.
    """

    def is_return(k: int) -> bool:
        return 0 <= k < len(departure) and -departure[k] / departure[step] >= _RETURN

    if is_return(step + 1):
        return f"outlier at {sizes[step + 1]:,.0f}, {_at_least(departure[step])}"
    if is_return(step - 1):
        return f"outlier at {sizes[step]:,.0f}, {_at_least(-departure[step])}"
    kind = "jump or outlier" if step in (0, len(departure) - 1) else "jump"
    change = _at_least(departure[step])
    return f"{kind} from {sizes[step]:,.0f} to {sizes[step + 1]:,.0f}, {change}"


def _at_least(log_ratio: float) -> str:
    return f"at least {100 * np.expm1(log_ratio):+.1f} %"
