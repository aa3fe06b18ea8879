"""Sweep policies: which candidates deserve a larger subset, decided from the cells so far.

A sweep goes in rounds. The first has every candidate on all sizes up to sixteen times the smallest;
each later one has the candidates still in the race on the next size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lensllm.curves.curve import Array, Curves
from lensllm.selection.answers import Question
from lensllm.selection.ranking import CandidatePool, choice

if TYPE_CHECKING:
    from lensllm.config.sections import Policy

_FIRST_SPAN = 16.0  # times the smallest size: what a first extrapolation needs
_COLUMNS = {
    "budget": np.int64, "candidate": str, "predicted": float, "p_best": float,
    "expected_regret": float, "dropped": str, "stop": str,
}  # fmt: skip
# chance of being best below which a candidate is dropped, and the same in shares of a uniform
# guess: among very many equals nobody is likely; draws alone give at least .02/M
_UNLIKELY, _UNLIKELY_SHARE = 0.02, 0.6
_NO_REGRET = 0.02  # expected regret, in ranges of the predicted losses, at which to stop


@dataclass(frozen=True)
class Decision:
    """The candidates that a round drops, and whether the sweep stops after it."""

    candidates: pd.DataFrame  # schema sweep/decisions, of the candidates still in the race
    stop: str  # why no larger subset is needed; empty: go on

    @property
    def kept(self) -> tuple[str, ...]:
        """The candidates of the next round."""
        rows = self.candidates
        return tuple(rows.loc[rows["dropped"] == "", "candidate"])


def first_round(sizes: Array) -> int:
    """Number of the ascending ``sizes`` that every candidate is trained on; at least three."""
    within = np.searchsorted(sizes, _FIRST_SPAN * sizes[0], side="right")
    return int(min(max(within, 3), len(sizes)))


def play(
    policy: Policy,
    sizes: Array,
    candidates: tuple[str, ...],
    after: Callable[[int, tuple[str, ...]], Decision | None],
) -> Iterator[tuple[range, tuple[str, ...]]]:
    """The rounds of a sweep: places in the ascending ``sizes``, and the candidates trained there.

    ``after`` is asked for a decision with the number of sizes known and the candidates in the race;
    it returns None, which ends the rounds, while the decision is not taken yet.
    """
    racing, known = candidates, len(sizes) if policy == "all" else first_round(sizes)
    yield range(known), racing
    while known < len(sizes):
        taken = after(known, racing)
        if taken is None or taken.stop:
            return
        racing = taken.kept
        yield range(known, known + 1), racing
        known += 1


def deciding_predictor(policy: Policy, reference: str) -> str:
    """The predictor that a policy decides by: *halving* is defined by AtS (Lin et al. 2024)."""
    return "ats" if policy == "halving" else reference


def decide(policy: Policy, curves: Curves, earlier: pd.DataFrame, question: Question) -> Decision:
    """Drop, stop or go on, from the ``curves`` of the candidates still in the race.

    *adaptive* drops candidates that are hardly ever best among the draws of the reference
    predictor, and stops when little is left to be gained in the range of what this and the
    ``earlier`` decisions predict; *halving* drops the worse half by AtS (Lin et al. 2024) until one
    is left. Raises DataError when the predictor cannot answer.
    """
    name = deciding_predictor(policy, question.reference)
    rows = CandidatePool.of(curves, question).outlook(name, len(curves.sizes)).reset_index()
    rows["budget"] = int(curves.sizes[-1])
    if policy == "halving":
        dropped, stop = _halving(rows), ""
    else:
        dropped, stop = _adaptive(rows, pd.concat([earlier, rows])["predicted"])
    rows["dropped"] = dropped
    if not stop and (rows["dropped"] == "").sum() == 1:
        stop = "one candidate is left"
    rows["stop"] = stop
    return Decision(rows[list(_COLUMNS)], stop)


def _adaptive(rows: pd.DataFrame, predictions: pd.Series[float]) -> tuple[list[str], str]:
    """Reason to drop each candidate, empty for those kept, and reason to stop."""
    chosen = choice(rows.assign(rank=rows["predicted"].rank()))
    range_ = float(np.ptp(predictions.dropna()))
    regret = float(rows.loc[rows["candidate"] == chosen, "expected_regret"].iloc[0])
    stop = ""
    if range_ > 0 and regret < _NO_REGRET * range_:
        stop = (
            f"the expected regret of {chosen}, {regret:.4f}, is "
            f"{100 * regret / range_:.1f} % of the range of predicted losses"
        )
    reasons, least = [], min(_UNLIKELY, _UNLIKELY_SHARE / len(rows))
    for name, chance, predicted in zip(
        rows["candidate"], rows["p_best"], rows["predicted"], strict=True
    ):
        if np.isnan(predicted):
            reasons.append("it has too few finished cells to be predicted")
        else:
            unlikely = chance < least and name != chosen
            reasons.append(f"P(best) is {100 * chance:.1f} %" if unlikely else "")
    return reasons, stop


def _halving(rows: pd.DataFrame) -> list[str]:
    """The better half stays, the larger one when they are odd."""
    place = rows["predicted"].rank(method="first", na_option="bottom").astype(int)
    kept = (len(rows) + 1) // 2
    return [f"{p} of {len(rows)} by AtS" if p > kept else "" for p in place]


@dataclass(frozen=True)
class Simulation:
    """A sweep played on a finished table."""

    decisions: pd.DataFrame  # schema sweep/decisions, round after round
    curves: Curves  # the losses the sweep would have measured: NaN where it did not train

    @property
    def examples(self) -> float:
        """Training examples spent, over all candidates; losses of several seeds count once."""
        return float((np.isfinite(self.curves.mean_losses) * self.curves.sizes).sum())


def simulate(policy: Policy, curves: Curves, question: Question) -> Simulation:
    """Play ``policy`` on ``curves``, whose sizes are all that it may buy."""
    bought = np.zeros(curves.losses.shape[:2], dtype=bool)
    decisions = no_decisions()

    def after(known: int, racing: tuple[str, ...]) -> Decision:
        nonlocal decisions
        seen = curves.only(racing).until(curves.sizes[known - 1])
        taken = decide(policy, seen, decisions, question)
        rounds = [decisions, taken.candidates] if len(decisions) else [taken.candidates]
        decisions = pd.concat(rounds, ignore_index=True)
        return taken

    for sizes, racing in play(policy, curves.sizes, curves.candidates, after):
        rows = [curves.candidates.index(name) for name in racing]
        bought[np.ix_(rows, sizes)] = True
    known = int(np.flatnonzero(bought.any(0))[-1])
    losses = np.where(bought[:, :, None], curves.losses, np.nan)
    return Simulation(decisions, replace(curves, losses=losses).until(curves.sizes[known]))


def no_decisions() -> pd.DataFrame:
    """A table of decisions without a row, with the columns of sweep/decisions."""
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in _COLUMNS.items()})
