"""Learning curves: the held-out loss of every candidate at every subset size, as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lensllm.core.errors import DataError
from lensllm.spectra.spectrum import Spectrum

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Metric = Literal["bits_per_byte", "nats_per_token"]

# Predictors read at most this many sizes of a finer grid: the work of a backtest grows with the
# third power of the number, and neighbouring sizes say nearly the same.
MOST_SIZES = 24


@dataclass(frozen=True)
class Curves:
    """M candidates × S sizes × R seeds; NaN marks a cell that failed or was never run.

    Raises ValueError when the shapes contradict each other or the sizes do not ascend.
    """

    candidates: tuple[str, ...]  # M names
    sizes: Array  # (S,) training examples, ascending, all > 0
    losses: Array  # (M, S, R) held-out loss, positive or NaN
    zero_shot: Array | None = None  # (M,) loss of the pretrained model
    parameters: Array | None = None  # (M,) weights
    families: tuple[str, ...] | None = None  # M; "" where unknown
    weight_metrics: Mapping[str, Array] | None = None  # name -> (M,), of the pretrained weights
    spectra: tuple[Spectrum, ...] | None = None  # M, at the pretrained weights
    stop_times: Array | None = None  # (M, S) sum of learning rates up to the best step

    def __post_init__(self) -> None:
        count = len(self.candidates)
        if self.losses.ndim != 3 or self.losses.shape[:2] != (count, len(self.sizes)):
            raise ValueError(f"losses have shape {self.losses.shape}, want ({count}, S, R)")
        if np.any(self.sizes <= 0) or np.any(np.diff(self.sizes) <= 0):
            raise ValueError("sizes must be positive and ascending")

    @property
    def mean_losses(self) -> Array:
        """(M, S) mean over the seeds that finished; NaN where none did."""
        return nan_mean(self.losses, axis=-1)

    @property
    def last_losses(self) -> Array:
        """(M,) mean loss at the largest size that the candidate finished; NaN if it has none."""
        losses = self.mean_losses
        last = losses.shape[1] - 1 - np.isfinite(losses)[:, ::-1].argmax(1)
        loss: Array = losses[np.arange(len(losses)), last]
        return loss

    def require_sizes(self, needed: int, who: str) -> Array:
        """(M, S) ``mean_losses``, all NaN for a candidate with fewer than ``needed`` of them.

        Raises DataError, in the name of ``who``, when no candidate has enough.
        """
        losses = self.mean_losses
        points = np.isfinite(losses).sum(1)
        if not np.any(points >= needed):
            raise DataError(
                f"{who} needs {needed} finished sizes and the longest curve has "
                f"{points.max(initial=0)}: raise the budget or add sizes to the sweep."
            )
        return np.where((points >= needed)[:, None], losses, np.nan)

    def only(self, candidates: Sequence[str]) -> Curves:
        """The curves of ``candidates``, in that order."""
        rows = [self.candidates.index(name) for name in candidates]
        chosen: dict[str, Any] = {}  # every field but the sizes has a row per candidate
        for name, values in vars(self).items():
            if isinstance(values, np.ndarray) and name != "sizes":
                chosen[name] = values[rows]
            elif isinstance(values, tuple):
                chosen[name] = tuple(values[i] for i in rows)
            elif isinstance(values, Mapping):
                chosen[name] = {metric: array[rows] for metric, array in values.items()}
        return replace(self, **chosen)

    def until(self, size: float) -> Curves:
        """The curves as known before any subset larger than ``size`` was trained on."""
        kept = int(np.searchsorted(self.sizes, size, side="right"))
        return replace(
            self,
            sizes=self.sizes[:kept],
            losses=self.losses[:, :kept],
            stop_times=None if self.stop_times is None else self.stop_times[:, :kept],
        )

    def losses_at(self, size: float) -> dict[str, float]:
        """Mean measured loss of every candidate that has one at ``size`` training examples.

        Raises DataError when no candidate was trained on that many.
        """
        column = int(np.searchsorted(self.sizes, size))
        if column == len(self.sizes) or self.sizes[column] != size:
            known = ", ".join(f"{known:,.0f}" for known in self.sizes)
            raise DataError(f"there is no loss at {size:,.0f} training examples: sizes are {known}")
        losses = self.mean_losses[:, column]
        pairs = zip(self.candidates, losses.tolist(), strict=True)
        return {name: loss for name, loss in pairs if np.isfinite(loss)}


def thin_sizes(sizes: Array, most: int = MOST_SIZES) -> Array:
    """At most ``most`` of the ascending ``sizes``: both ends, the others evenly in log size."""
    if len(sizes) <= most:
        return sizes
    wanted = np.linspace(np.log(sizes[0]), np.log(sizes[-1]), most)
    distances = np.abs(np.log(sizes)[:, None] - wanted)
    kept: Array = sizes[np.unique(distances.argmin(0))]
    return kept


def nan_mean(values: Array, axis: int) -> Array:
    """Mean of the finite values along ``axis``; NaN, without a warning, where there are none."""
    finite = np.isfinite(values)
    count = finite.sum(axis)
    total = np.where(finite, values, 0.0).sum(axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def curves_from_cells(
    cells: pd.DataFrame,
    metric: Metric,
    budget: int,
    spectra: Mapping[str, Spectrum] | None = None,
) -> Curves:
    """Curves from the table ``curve/cells``: its rows with 0 < D ≤ ``budget``, sizes thinned.

    Candidates keep the order of their first row. D = 0 becomes ``zero_shot``. A loss that is not
    finite counts as a failed cell. ``spectra`` are used only if every candidate has one, since the
    laws that need them compare all candidates.

    Raises DataError when the metric is unknown, a loss is not positive, a cell stands twice, or
    nothing is left.
    """
    if metric not in get_args(Metric):
        known = " or ".join(get_args(Metric))
        raise DataError(f"Metric {metric!r} is unknown: set it to {known}.")
    _check(cells, metric)
    candidates = cells["candidate"].unique().tolist()
    trained = cells[(cells["size"] > 0) & (cells["size"] <= budget)]
    if trained.empty:
        raise DataError(
            f"No finished cell has a size between 1 and the budget {budget:,}: "
            "raise the budget or lower the smallest size of the sweep."
        )
    sizes = thin_sizes(np.sort(trained["size"].unique()))
    trained = trained[trained["size"].isin(sizes)]
    untrained = cells[cells["size"] == 0]
    labels = cells["family"].astype(object).fillna("")
    families = dict(zip(cells["candidate"], labels, strict=True))
    times = nan_mean(_cube(trained, "learning_rate_integral", candidates, sizes), axis=-1)
    if spectra is None or not all(name in spectra for name in candidates):
        spectra = {}
    return Curves(
        candidates=tuple(candidates),
        sizes=sizes.astype(float),
        losses=_cube(trained, metric, candidates, sizes),
        zero_shot=_per_candidate(untrained, metric, candidates),
        parameters=_per_candidate(cells, "parameters", candidates),
        families=tuple(families.values()) if any(families.values()) else None,
        spectra=tuple(spectra[name] for name in candidates) if spectra else None,
        stop_times=times if np.isfinite(times).any() else None,
    )


def _check(cells: pd.DataFrame, metric: str) -> None:
    """Raises DataError for the first cell that is not positive or stands twice."""
    for kind, wrong in (
        (f"a {metric} that is not positive", cells[metric] <= 0),
        ("two results", cells.duplicated(["candidate", "size", "repeat"])),
    ):
        if wrong.any():
            cell = cells[wrong].iloc[0]
            raise DataError(
                f"Cell {cell['candidate']}, D = {cell['size']:,}, repeat {cell['repeat']} "
                f"has {kind}: run it again or remove it from the table."
            )


def _cube(cells: pd.DataFrame, column: str, candidates: list[str], sizes: Array) -> Array:
    """(M, S, R) values of ``column``; NaN where there is no finite one."""
    repeats = np.sort(cells["repeat"].unique())
    cube = np.full((len(candidates), len(sizes), len(repeats)), np.nan)
    values = cells[column].to_numpy(dtype=float, na_value=np.nan)
    row = pd.Index(candidates).get_indexer(pd.Index(cells["candidate"]))
    place = (row, np.searchsorted(sizes, cells["size"]), np.searchsorted(repeats, cells["repeat"]))
    cube[place] = np.where(np.isfinite(values), values, np.nan)
    return cube


def _per_candidate(cells: pd.DataFrame, column: str, candidates: list[str]) -> Array | None:
    """(M,) mean of ``column``, or None when no candidate has a value."""
    values = cells.groupby("candidate")[column].mean().reindex(candidates)
    array = values.to_numpy(dtype=float, na_value=np.nan)
    return array if np.isfinite(array).any() else None
