"""Where the bound's curvature term overtakes its remainder: the bound's own transition.

Zeng et al. 2025, corollary: L(ŵ) ≤ (1 + ε) L̂ + C₃ n^(−β₃) + O(n^(−3/4)). While the remainder is
the larger of the two, a curve is in its pre-power phase. The theorem leaves the remainder's
constant open, so there are two readings:

- *literal*: n^(−3/4), in nats;
- *fitted*: C₃ n^(−β₃) and n^(−3/4), each with a factor ≥ 0 of its own, that together describe the
  measured gap between test and training loss best.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Array = NDArray[np.float64]

REMAINDERS = ("literal", "fitted")
_EXPONENT = 0.75  # of the remainder
_DRAWS = 1000
_INTERVAL = (0.1, 0.9)


@dataclass(frozen=True)
class PowerLaw:
    """C₃ n^(−β₃), fitted in log-log."""

    log_c3: float
    beta3: float
    covariance: Array  # (2, 2) of (ln C₃, β₃)
    freedom: int  # points − 2; without any the covariance is NaN

    def at(self, sizes: Array) -> Array:
        """The law's values at ``sizes``."""
        values: Array = np.exp(self.log_c3 - self.beta3 * np.log(sizes))
        return values

    @property
    def errors(self) -> Array:
        """Standard errors of ln C₃ and β₃."""
        deviations: Array = np.sqrt(np.diag(self.covariance))
        return deviations

    def draw(self, count: int, generator: np.random.Generator) -> list[PowerLaw]:
        """Laws as likely as this one: Student's t around it."""
        stretch = np.sqrt(self.freedom / generator.chisquare(self.freedom, count))
        steps = generator.multivariate_normal(np.zeros(2), self.covariance, count)
        places = (self.log_c3, self.beta3) + stretch[:, None] * steps
        return [PowerLaw(c, b, self.covariance, self.freedom) for c, b in places.tolist()]


@dataclass(frozen=True)
class Crossing:
    """n* of one candidate under one reading of the remainder.

    0 where the curvature term is the larger at every size, inf where it never becomes so.
    """

    remainder: str  # literal | fitted
    size: float
    low: float  # 80 % interval; NaN where two points leave nothing to judge by
    high: float


def power_law(sizes: Array, terms: Array) -> PowerLaw:
    """Least squares of ln ``terms`` on ln ``sizes``, both (P,), any number of points at a size.

    Raises ValueError with fewer than two different sizes or a term that is not positive.
    """
    if len(set(sizes)) < 2 or np.any(terms <= 0):
        raise ValueError("a power law needs positive terms at two sizes or more")
    design = np.column_stack([np.ones(len(sizes)), -np.log(sizes)])
    y = np.log(terms)
    found, *_ = np.linalg.lstsq(design, y, rcond=None)
    freedom = len(y) - 2
    rest = y - design @ found
    variance = float(rest @ rest) / freedom if freedom else math.nan
    covariance = variance * np.linalg.inv(design.T @ design)
    return PowerLaw(float(found[0]), float(found[1]), covariance, freedom)


def crossing(law: PowerLaw, log_constant: float = 0.0) -> float:
    """n* at which C₃ n^(−β₃) overtakes c n^(−3/4), c = exp(``log_constant``); NaN for a NaN."""
    gain = _EXPONENT - law.beta3
    if gain <= 0:  # the term falls faster than the remainder
        return math.inf
    with np.errstate(over="ignore"):
        return float(np.exp((log_constant - law.log_c3) / gain))


def crossings(
    sizes: Array, terms: Array, gaps: Array, generator: np.random.Generator
) -> list[Crossing]:
    """n* under both readings from the cells of one candidate, all (P,): training examples,
    curvature terms and gaps. Raises ValueError as ``power_law`` does."""
    law = power_law(sizes, terms)
    constant, spread = _log_constant(law, sizes, gaps)
    found = {"literal": crossing(law), "fitted": crossing(law, constant)}
    if not law.freedom:
        return [Crossing(name, size, math.nan, math.nan) for name, size in found.items()]
    draws: dict[str, list[float]] = {name: [] for name in found}
    for drawn in law.draw(_DRAWS, generator):
        noisy = gaps + spread * generator.standard_t(law.freedom, len(gaps))
        draws["literal"].append(crossing(drawn))
        draws["fitted"].append(crossing(drawn, _log_constant(drawn, sizes, noisy)[0]))
    return [Crossing(name, size, *_interval(draws[name])) for name, size in found.items()]


def _log_constant(law: PowerLaw, sizes: Array, gaps: Array) -> tuple[float, float]:
    """ln(c / a) of the best a C₃ n^(−β₃) + c n^(−3/4) with a, c ≥ 0, and what its residuals are."""
    design = np.column_stack([law.at(sizes), sizes**-_EXPONENT])
    (a, c), norm = nnls(design, gaps)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = float(np.log(c) - np.log(a))  # ±inf where one of them is 0; NaN where both are
    return ratio, norm / math.sqrt(max(len(gaps) - 2, 1))


def _interval(draws: list[float]) -> tuple[float, float]:
    """Quantiles of what is known, which may be infinite: so without interpolation."""
    if all(map(math.isnan, draws)):
        return math.nan, math.nan
    low, high = np.nanquantile(draws, _INTERVAL, method="nearest")
    return float(low), float(high)
