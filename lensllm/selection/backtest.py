"""Every predictor's forecasts from every origin inside the data, each asked for only once.

An origin is a number of sizes known. From each, predictors are asked for all later sizes and the
target. One backtest serves all budgets of a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from lensllm.core.errors import DataError
from lensllm.curves.curve import Array, Curves
from lensllm.predictors import PREDICTORS, Mixture, Prediction, Registry, parts

ERROR_UNIT = "hrb"  # its sd knows how noisy a curve is and how far away a size
_FIRST_ORIGIN = 4  # sizes; 3 where 5 are all there are
_MOST_ORIGINS = 12  # on a finer grid than doublings, as many as tell different things

StoredAnswers = Mapping[tuple[str, int], Prediction | str]
"""By predictor and budget (the largest size known): its forecasts, or why it has none."""


@dataclass(frozen=True)
class ForecastErrors:
    """The errors of C forecasts of sizes that were measured."""

    horizons: Array  # (C,) doublings from the origin's last size
    errors: Array  # (C, M) measured minus predicted log loss
    unit: Array  # (C, M) sd of the log loss by which errors are counted
    origins: int


class Backtest:
    """The forecasts made on ``curves`` for ``target``.

    Errors are counted in units of the sd that the predictor ``error_unit`` states. With ``answers``
    no predictor is asked: they hold every forecast that is needed.
    """

    def __init__(
        self,
        curves: Curves,
        target: float,
        registry: Registry = PREDICTORS,
        error_unit: str = ERROR_UNIT,
        answers: StoredAnswers | None = None,
    ) -> None:
        self.curves = curves
        self.target = target
        self.registry = registry
        self.error_unit = error_unit
        self._stored = answers
        # predictors read means only, and to take them of many seeds anew each time is slow
        self._means = replace(curves, losses=curves.mean_losses[:, :, None])
        self._log_losses = np.log(self._means.losses[:, :, 0])
        self._asked: dict[tuple[str, int], Prediction] = {}

    def known(self, budget: float) -> int:
        """Number of sizes up to ``budget``."""
        return int(np.searchsorted(self.curves.sizes, budget, side="right"))

    def ask(self, name: str, known: int) -> Prediction:
        """The forecasts of ``name`` from the first ``known`` sizes: all later ones, and the target.

        Raises DataError as the predictor does.
        """
        if (name, known) not in self._asked:
            self._asked[name, known] = self._answer(name, known)
        return self._asked[name, known]

    def unit(self, known: int) -> Array:
        """(M, T) sd of the log loss in which the errors of all predictors are counted."""
        sd = self.ask(self.error_unit, known).sd_log
        assert sd is not None, f"{self.error_unit} states no sd"
        return sd

    def errors(self, name: str, known: int) -> ForecastErrors:
        """The errors of the forecasts of ``name`` that the first ``known`` sizes can judge."""
        horizons, errors, units, used = [np.empty(0)], [], [], 0
        sizes, nothing = self.curves.sizes, np.empty((0, len(self._log_losses)))
        for origin in origins(sizes[:known]):
            horizons.append(np.log2(sizes[origin:known] / sizes[origin - 1]))
            ahead = known - origin
            truth = self._log_losses[:, origin:known]
            try:
                predicted = np.log(self.ask(name, origin).loss[:, :ahead])
                unit = self.unit(origin)[:, :ahead]
                used += 1
            except DataError:  # too few finished cells that early
                predicted = unit = np.full(truth.shape, np.nan)
            errors.append((truth - predicted).T)
            units.append(unit.T)
        return ForecastErrors(
            np.concatenate(horizons),
            np.concatenate([nothing, *errors]),
            np.concatenate([nothing, *units]),
            used,
        )

    def weights(self, name: str, known: int) -> dict[str, float]:
        """The share of every part of a mixture; a plain predictor is all of itself."""
        predictor = self.registry[name]
        if not isinstance(predictor, Mixture):
            return {name: 1.0}
        judged = [self.errors(part, known) for part in predictor.parts]
        errors = np.stack([part.errors for part in judged], axis=1)
        weights = predictor.weigh(errors, judged[0].horizons)
        return dict(zip(predictor.parts, map(float, weights), strict=True))

    def _answer(self, name: str, known: int) -> Prediction:
        predictor = self.registry[name]
        if isinstance(predictor, Mixture):
            shares = self.weights(name, known).items()
            logs = np.array([share * np.log(self.ask(part, known).loss) for part, share in shares])
            return Prediction(np.exp(logs.sum(0)))
        sizes = self.curves.sizes
        budget = sizes[known - 1] if known else 0.0
        if self._stored is not None:
            stored = self._stored[name, int(budget)]
            if isinstance(stored, str):
                raise DataError(stored)
            return stored
        return predictor.predict(self._means.until(budget), np.append(sizes[known:], self.target))


def asked_predictors(
    name: str, registry: Registry, error_unit: str = ERROR_UNIT
) -> tuple[str, ...]:
    """The predictors behind the forecasts and intervals of ``name``: its parts and the unit's."""
    return tuple(dict.fromkeys((*parts(name, registry), error_unit)))


def origins(sizes: Array) -> list[int]:
    """Numbers of sizes to forecast from, evenly spread over the doublings of a fine grid."""
    found = np.arange(3 if len(sizes) == 5 else _FIRST_ORIGIN, len(sizes))
    if len(found) > _MOST_ORIGINS:
        doublings = np.log2(sizes[found - 1])
        wanted = np.linspace(doublings[0], doublings[-1], _MOST_ORIGINS)
        found = found[np.unique(np.abs(doublings - wanted[:, None]).argmin(1))]
    return found.tolist()


def all_origins(sizes: Array, known: int) -> set[int]:
    """``known`` and every origin that a forecast from it can need.

    The weights of a mixture at an origin come from the origins before that one.
    """
    found, waiting = set[int](), {known}
    while waiting:
        place = waiting.pop()
        found.add(place)
        waiting |= set(origins(sizes[:place])) - found
    return found
