"""Every predictor's forecasts from every origin inside the data, each asked for only once.

An origin is a number of sizes known. From each, predictors are asked for all later sizes and the
target. What lay ahead of a smaller budget is never compared with before that budget knew it, so one
backtest serves all budgets of a table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lensllm.core.errors import DataError
from lensllm.curves.curve import Array, Curves
from lensllm.predictors import PREDICTORS, Mixture, Prediction

_FIRST_ORIGIN = 4  # sizes; 3 where 5 are all there are
_MOST_ORIGINS = 12  # on a finer grid than doublings, as many as tell different things


@dataclass(frozen=True)
class Cells:
    """C forecasts of sizes that were measured."""

    horizons: Array  # (C,) doublings from the origin's last size
    errors: Array  # (C, M) measured minus predicted log loss
    scale: Array  # (C, M) HRB's sd of the same forecast
    origins: int


class Backtest:
    """The forecasts made on ``curves`` for ``target``."""

    def __init__(self, curves: Curves, target: float) -> None:
        self.curves = curves
        self.target = target
        # predictors look at means only, and to take them of many seeds anew each time is slow
        self._means = replace(curves, losses=curves.mean_losses[:, :, None])
        self._log_losses = np.log(self._means.losses[:, :, 0])
        self._asked: dict[tuple[str, int], Prediction] = {}

    def known(self, budget: float) -> int:
        """How many sizes do not exceed ``budget``."""
        return int(np.searchsorted(self.curves.sizes, budget, side="right"))

    def ask(self, name: str, known: int) -> Prediction:
        """What ``name`` says from the first ``known`` sizes of all later ones and the target, last.

        Raises DataError as the predictor does.
        """
        if (name, known) not in self._asked:
            self._asked[name, known] = self._answer(name, known)
        return self._asked[name, known]

    def scale(self, known: int) -> Array:
        """(M, T) HRB's sd of the log loss, in units of which all predictors' errors are counted."""
        sd = self.ask("hrb", known).sd_log
        assert sd is not None
        return sd

    def cells(self, name: str, known: int) -> Cells:
        """The forecasts of ``name`` that the first ``known`` sizes can judge."""
        horizons, errors, scale, used = [np.empty(0)], [], [], 0
        sizes, nothing = self.curves.sizes, np.empty((0, len(self._log_losses)))
        for origin in _origins(sizes[:known]):
            ahead = known - origin
            horizons.append(np.log2(sizes[origin:known] / sizes[origin - 1]))
            try:
                predicted = np.log(self.ask(name, origin).loss)
                unit = self.scale(origin)
            except DataError:  # too few finished cells that early
                errors.append(np.full((ahead, nothing.shape[1]), np.nan))
                scale.append(errors[-1])
                continue
            errors.append((self._log_losses[:, origin:known] - predicted[:, :ahead]).T)
            scale.append(unit[:, :ahead].T)
            used += 1
        return Cells(
            np.concatenate(horizons),
            np.concatenate([nothing, *errors]),
            np.concatenate([nothing, *scale]),
            used,
        )

    def weights(self, name: str, known: int) -> dict[str, float]:
        """What a mixture is made of; a plain predictor is all of itself."""
        predictor = PREDICTORS[name]
        if not isinstance(predictor, Mixture):
            return {name: 1.0}
        parts = [self.cells(part, known) for part in predictor.parts]
        errors = np.stack([part.errors for part in parts], axis=1)
        weights = predictor.weigh(errors, parts[0].horizons)
        return dict(zip(predictor.parts, map(float, weights), strict=True))

    def _answer(self, name: str, known: int) -> Prediction:
        predictor = PREDICTORS[name]
        if isinstance(predictor, Mixture):
            shares = self.weights(name, known).items()
            logs = np.array([share * np.log(self.ask(part, known).loss) for part, share in shares])
            return Prediction(np.exp(logs.sum(0)))
        sizes = self.curves.sizes
        seen = self._means.until(sizes[known - 1] if known else 0.0)
        return predictor.predict(seen, np.append(sizes[known:], self.target))


def _origins(sizes: Array) -> list[int]:
    """Numbers of sizes to forecast from, evenly spread over the doublings of a fine grid."""
    origins = np.arange(3 if len(sizes) == 5 else _FIRST_ORIGIN, len(sizes))
    if len(origins) > _MOST_ORIGINS:
        doublings = np.log2(sizes[origins - 1])
        wanted = np.linspace(doublings[0], doublings[-1], _MOST_ORIGINS)
        origins = origins[np.unique(np.abs(doublings - wanted[:, None]).argmin(1))]
    return origins.tolist()
