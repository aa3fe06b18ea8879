"""LENS104: a curve leaves its own course for one step, or at one size.

A law's slope in log-log has one steepest place: no step is much steeper, or flatter, than those on
both sides of it. At either end there is one side only, and a law may have just begun to fall, or
nearly reached its floor: its slope then changes by the factor 2^β per doubling.
"""

from __future__ import annotations

import numpy as np

from lensllm.curves.curve import Array, Curves
from lensllm.diagnostics.checks.check import Check, Context, Finding, findings
from lensllm.diagnostics.checks.points import Points, points

CODE = "LENS104"
TIP = "run the cells at that size again with another seed, and doubt this extrapolation till then"
# At these limits none of 36,000 rectified laws with β < .9 and noise of .1 or .4 % fired, while a
# jump of 10 % in one of 6 or 30 curves was found at least 8 times of 10, from 5 sizes on.
LEAST_LOG = 0.03
LEAST_NOISES = 8.0
LEAST_SHARE = 0.5  # of the steepest step beside it
_END_FACTOR = 2.0  # β = 1
_RETURN = 1 / 3  # of a departure: an outlier at the second size returns from the first only so much
_NEIGHBOURS = 2  # steps on either side
_FEWEST_SIZES = 4
_FEWEST_CANDIDATES = 3  # to tell what they share


def find(context: Context) -> list[Finding]:
    """The largest departure of every candidate that has one."""
    curves = context.curves
    long = [p for p in points(curves) if len(p.sizes) >= _FEWEST_SIZES]
    departures = _departures(curves, long)
    details = {}
    for p, departure in zip(long, departures, strict=True):
        excess = np.abs(departure) / _limits(p)
        worst = int(excess.argmax())
        if excess[worst] > 1:
            details[p.candidate] = _describe(p.sizes, departure, worst)
    return findings(CODE, "A curve leaves its course", details, TIP)


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
        beside = list(slopes[_beside(j, len(slopes))])
        if j in (0, len(slopes) - 1):
            next_to = 1 if j == 0 else j - 1
            factor = _END_FACTOR ** abs(middles[j] - middles[next_to])
            beside += [slopes[next_to] * factor, slopes[next_to] / factor]
        outside[j] = slope - np.clip(slope, min(beside), max(beside))
    outside *= gaps
    return outside


def _limits(p: Points) -> Array:
    """(n − 1,) what a departure must exceed; short steps beside a long one say little about it."""
    gaps = np.diff(np.log2(p.sizes))
    slopes = np.abs(np.diff(p.log_losses) / gaps)
    beside = [_beside(j, len(gaps)) for j in range(len(gaps))]
    shortest = np.array([gaps[k].min() for k in beside])
    steepest = np.array([slopes[k].max() for k in beside])
    noise = np.maximum(p.noise[1:], p.noise[:-1])
    least = np.maximum(LEAST_LOG, LEAST_NOISES * noise) * np.maximum(gaps / shortest, 1.0)
    limits: Array = np.maximum(least, LEAST_SHARE * steepest * gaps)
    return limits


def _beside(step: int, count: int) -> list[int]:
    """The nearest steps on both sides."""
    around = range(max(step - _NEIGHBOURS, 0), min(step + _NEIGHBOURS + 1, count))
    return [k for k in around if k != step]


def _describe(sizes: Array, departure: Array, step: int) -> str:
    """An outlier is a step off the course with one back beside it; at an end nothing tells."""

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


CHECK = Check(CODE, "A jump or an outlier in a curve", TIP, find)
