"""Sweep policies: which candidates deserve a larger subset, decided from the cells so far.

A sweep goes in rounds. The first has every candidate on all sizes up to sixteen times the smallest;
each later one has the candidates still in the race on the next size. A decision depends on nothing
but the cells, so that an interrupted sweep takes the same ones again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lensllm.backtest import Backtest
from lensllm.config import Policy
from lensllm.curves import Array, Curves
from lensllm.ranking import Question
from lensllm.schemas import schema
from lensllm.uncertainty import Draws, forecast, spread

_FIRST_SPAN = 16.0  # times the smallest size: what a first extrapolation needs
# chance of being best below which a candidate is dropped, and the same in shares of a uniform
# guess: among very many equals nobody is likely; draws alone give at least .02/M
_UNLIKELY, _UNLIKELY_SHARE = 0.02, 0.6
_NO_REGRET = 0.02  # expected regret, in ranges of the predicted losses, at which to stop


@dataclass(frozen=True)
class Decision:
    """What the cells of a round led to."""

    candidates: pd.DataFrame  # schema sweep/decisions, of the candidates still in the race
    stop: str  # why no larger subset is needed; empty: go on

    @property
    def kept(self) -> tuple[str, ...]:
        """The candidates of the next round."""
        rows = self.candidates
        return tuple(rows.loc[rows["dropped"] == "", "candidate"])


def first_round(sizes: Array) -> int:
    """How many of the ascending ``sizes`` every candidate is trained on; at least three."""
    within = np.searchsorted(sizes, _FIRST_SPAN * sizes[0], side="right")
    return int(min(max(within, 3), len(sizes)))


def decide(policy: Policy, curves: Curves, earlier: pd.DataFrame, question: Question) -> Decision:
    """Drop, stop or go on, from the ``curves`` of the candidates still in the race.

    *adaptive* drops who is hardly ever best among the draws of the question's reference predictor
    and stops when little is left to be gained, by what it and the ``earlier`` decisions predict;
    *halving* drops the worse half by AtS (Lin et al. 2024) until one is left. Raises DataError when
    the predictor cannot answer.
    """
    name = "ats" if policy == "halving" else question.reference
    backtest, known = Backtest(curves, question.target), len(curves.sizes)
    predicted = backtest.ask(name, known).loss[:, -1]
    outlook = forecast(
        predicted,
        spread(backtest, name, known),
        Draws.of(curves.candidates, question.seed, question.draws),
    )
    rows = pd.DataFrame(
        {
            "budget": int(curves.sizes[-1]),
            "candidate": curves.candidates,
            "predicted": predicted,
            "p_best": outlook.p_best,
            "expected_regret": outlook.expected_regret,
        }
    )
    chosen = int(np.argmin(np.where(np.isfinite(predicted), outlook.cautious, np.inf)))
    if policy == "halving":
        dropped, stop = _halving(rows), ""
    else:
        dropped, stop = _adaptive(rows, chosen, pd.concat([earlier, rows])["predicted"])
    rows["dropped"] = dropped
    if not stop and (rows["dropped"] == "").sum() == 1:
        stop = "one candidate is left"
    rows["stop"] = stop
    return Decision(rows[schema("sweep/decisions").names], stop)


def _adaptive(
    rows: pd.DataFrame, chosen: int, predictions: pd.Series[float]
) -> tuple[list[str], str]:
    """Why each candidate is dropped, empty for those kept, and why to stop."""
    range_ = float(np.ptp(predictions.dropna()))
    regret = float(rows["expected_regret"].iloc[chosen])
    stop = ""
    if range_ > 0 and regret < _NO_REGRET * range_:
        stop = (
            f"the expected regret of {rows['candidate'].iloc[chosen]}, {regret:.4f}, is "
            f"{100 * regret / range_:.1f} % of the range of predicted losses"
        )
    reasons, least = [], min(_UNLIKELY, _UNLIKELY_SHARE / len(rows))
    for i, (chance, predicted) in enumerate(zip(rows["p_best"], rows["predicted"], strict=True)):
        if np.isnan(predicted):
            reasons.append("it has too few finished cells to be predicted")
        else:
            unlikely = chance < least and i != chosen
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
    curves: Curves  # what the sweep would have known: NaN where it did not train

    @property
    def examples(self) -> float:
        """Training examples spent, over all candidates; losses of several seeds count once."""
        return float((np.isfinite(self.curves.mean_losses) * self.curves.sizes).sum())


def simulate(policy: Policy, curves: Curves, question: Question) -> Simulation:
    """Play ``policy`` on ``curves``, whose sizes are all that it may buy."""
    racing, known = curves.candidates, first_round(curves.sizes)
    if policy == "all":
        known = len(curves.sizes)
    bought = np.zeros(curves.losses.shape[:2], dtype=bool)
    bought[:, :known] = True
    decisions = nobody()
    while known < len(curves.sizes):
        seen = curves.only(racing).until(curves.sizes[known - 1])
        decision = decide(policy, seen, decisions, question)
        rounds = [decisions, decision.candidates] if len(decisions) else [decision.candidates]
        decisions = pd.concat(rounds, ignore_index=True)
        if decision.stop:
            break
        racing = decision.kept
        bought[[curves.candidates.index(name) for name in racing], known] = True
        known += 1
    losses = np.where(bought[:, :, None], curves.losses, np.nan)
    return Simulation(decisions, replace(curves, losses=losses).until(curves.sizes[known - 1]))


def nobody() -> pd.DataFrame:
    """No decision yet, with the columns of sweep/decisions."""
    types = {field.name: field.type.to_pandas_dtype() for field in schema("sweep/decisions")}
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in types.items()})
