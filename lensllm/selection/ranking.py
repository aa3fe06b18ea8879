"""Rank the candidates by their predicted loss at the target, and say it in a sentence."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from lensllm.core import seeds
from lensllm.core.errors import ConfigError, DataError
from lensllm.curves.curve import Array, Curves, Metric
from lensllm.laws.linear import Mask
from lensllm.predictors import PREDICTORS, Mixture
from lensllm.selection import bootstrap, scores
from lensllm.selection.backtest import Backtest
from lensllm.selection.uncertainty import Draws, forecast, spread
from lensllm.store.schemas import schema

# a choice is clear that is more likely than not the best, and twice as likely as any other
_CLEAR, _ODDS = 0.5, 2.0
_DROPPED_CHANCE = 0.02  # that one of those dropped is the best after all, shared by them
_SEED_REPLICATES = 5  # resampled sets of seeds behind the comparison


@dataclass(frozen=True)
class Ranking:
    """What every predictor says at every budget, and how right it was where the truth is known."""

    predictions: pd.DataFrame  # schema ranking/predictions, by budget, predictor, then rank
    scores: pd.DataFrame  # schema ranking/scores; no rows when the truth is unknown
    comparison: pd.DataFrame  # schema ranking/comparison; no rows when the truth is unknown
    weights: pd.DataFrame  # schema ranking/weights
    skipped: pd.DataFrame  # schema ranking/skipped: the sentence that says what was lacking


@dataclass(frozen=True)
class Question:
    """What is asked of the predictors."""

    target: float
    budgets: tuple[float, ...]  # ascending; each counts as the largest size it can pay for
    predictors: tuple[str, ...]
    reference: str  # the predictor whose ranking is the answer
    seed: int
    draws: int = 4000


def rank(
    curves: Curves, question: Question, truth: Array | None, dropped: Collection[str] = ()
) -> Ranking:
    """Ask the predictors for the losses at the target from the curves up to each budget.

    ``truth`` is the measured loss at the target, (M,) with NaN where unknown. Candidates that a
    sweep's policy has ``dropped`` are predicted from what they have and stand last; intervals,
    P(best) and choice of the others are as if they had never been. A predictor that lacks an input
    is skipped.
    Raises ConfigError for a name that is not in the registry and DataError when no predictor is
    left.
    """
    unknown = [name for name in question.predictors if name not in PREDICTORS]
    if unknown:
        raise ConfigError(
            f"Predictor {unknown[0]!r} does not exist: choose among {', '.join(PREDICTORS)}."
        )
    fields = [Field.of(curves, question)]
    if dropped:
        racing = [name for name in curves.candidates if name not in dropped]
        fields.append(Field.of(curves.only(racing), question))
    measured = np.full(len(curves.candidates), np.nan) if truth is None else truth
    tables, weights, skipped = [], list[dict[str, Any]](), list[dict[str, Any]]()
    for known in map(fields[0].backtest.known, question.budgets):
        for name in question.predictors:
            budget = int(fields[0].backtest.curves.sizes[known - 1])
            about: dict[str, Any] = {"budget": budget, "predictor": name}
            try:
                tables.append(_predictions(fields, name, known, measured).assign(**about))
            except DataError as error:
                skipped.append({**about, "reason": str(error)})
                continue
            if isinstance(PREDICTORS[name], Mixture):
                shares = fields[-1].backtest.weights(name, known)
                weights += [{**about, "part": p, "weight": share} for p, share in shares.items()]
    if not tables:
        reasons = " ".join(dict.fromkeys(row["reason"] for row in skipped))
        raise DataError(f"No predictor can rank these candidates. {reasons}")
    predictions = pd.concat(tables, ignore_index=True)
    scored = tables if np.isfinite(measured).any() else []
    compared = pd.DataFrame()
    if scored:
        compared = _comparison(fields[0].backtest, question, measured, predictions)
    return Ranking(
        _frame("ranking/predictions", predictions),
        _frame("ranking/scores", [_scores(table) for table in scored]),
        _frame("ranking/comparison", compared),
        _frame("ranking/weights", weights),
        _frame("ranking/skipped", skipped),
    )


def choice(rows: pd.DataFrame) -> str:
    """The candidate to fine-tune: the lowest cautious prediction of one predictor's ``rows``.

    Raises DataError when there is no prediction.
    """
    known = rows[_eligible(rows)]
    if known.empty:
        raise DataError("There is no prediction to choose by: see why predictors were skipped.")
    best: str = known.sort_values(["cautious", "rank"]).iloc[0]["candidate"]
    return best


def verdict(predictions: pd.DataFrame, predictor: str, target: float, metric: Metric) -> str:
    """One or two sentences for the user: whom to choose, how surely, and at what risk.

    ``predictions`` follow the schema ranking/predictions, at one budget. Raises DataError when
    ``predictor`` is not among them.
    """
    rows = predictions[predictions["predictor"] == predictor].sort_values("rank")
    rows = rows[np.isfinite(rows["predicted"])]
    if rows.empty:
        raise DataError(f"Predictor {predictor} made no prediction: see why it was skipped.")
    chosen = rows.set_index("candidate").loc[choice(rows)]
    others = rows[_eligible(rows) & (rows["candidate"] != chosen.name)]
    size = f"D = {target:,.0f}"
    loss = (
        f"{chosen['predicted']:.3f} {metric.replace('_', ' ')}, "
        f"80 % interval {chosen['low']:.3f}–{chosen['high']:.3f}"
    )
    if others.empty:
        alone = "left" if len(rows) > 1 else "with a prediction"
        return f"{chosen.name} is the only candidate {alone} at {size} ({loss})."
    lower = others.iloc[0]
    best = "the choice" if lower["rank"] < chosen["rank"] else "predicted best"
    risk = f"expected regret {chosen['expected_regret']:.3f}"
    rival = others.sort_values("p_best", kind="stable").iloc[-1]
    if chosen["p_best"] < max(_CLEAR, _ODDS * rival["p_best"]):
        text = (
            f"Too close to call at {size}: {chosen.name} is {best} ({loss}), "
            f"but P(best) is only {_percent(chosen['p_best'])}, "
            f"against {_percent(rival['p_best'])} for {rival['candidate']}; {risk}."
        )
    else:
        text = (
            f"{chosen.name} is {best} at {size} ({loss}), "
            f"P(best) {_percent(chosen['p_best'])}, {risk}; "
            f"the runner-up is {lower['candidate']}."
        )
    if lower["rank"] < chosen["rank"]:
        text += (
            f" {lower['candidate']} is predicted lower ({lower['predicted']:.3f}) "
            "but less surely, by more than it would gain."
        )
    return text


def _percent(chance: float) -> str:
    return f"{100 * chance:.0f} %"


@dataclass(frozen=True)
class Field:
    """Candidates that compete with each other."""

    backtest: Backtest
    draws: Draws

    @classmethod
    def of(cls, curves: Curves, question: Question) -> Field:
        backtest = Backtest(curves.until(question.budgets[-1]), question.target)
        return cls(backtest, Draws.of(curves.candidates, question.seed, question.draws))

    def outlook(self, name: str, known: int) -> pd.DataFrame:
        """What one predictor expects, by candidate."""
        predicted = self.backtest.ask(name, known).loss[:, -1]
        outlook = forecast(predicted, spread(self.backtest, name, known), self.draws)
        names = pd.Index(self.backtest.curves.candidates, name="candidate")
        return pd.DataFrame({"predicted": predicted, **vars(outlook)}, index=names)


def _predictions(fields: Sequence[Field], name: str, known: int, measured: Array) -> pd.DataFrame:
    """One predictor's rows, best first, then the dropped, then those without a prediction."""
    table = fields[0].outlook(name, known)
    truth_known = np.isfinite(measured)
    measured_rank = np.zeros(len(measured), dtype=np.int64)
    measured_rank[truth_known] = rankdata(measured[truth_known], method="min")
    table = table.assign(measured=measured, measured_rank=measured_rank, out=False)
    if len(fields) > 1:
        racing = fields[1].outlook(name, known)
        racing["p_best"] *= 1 - _DROPPED_CHANCE
        table["out"] = ~table.index.isin(racing.index)
        table.loc[table["out"], ["cautious", "expected_regret"]] = np.nan
        table["p_best"] = _DROPPED_CHANCE / table["out"].sum()
        table.loc[racing.index, racing.columns] = racing
    table["last"] = table["predicted"].isna()
    table = table.sort_values(["last", "out", "predicted"], kind="stable").reset_index()
    return table.drop(columns=["last", "out"]).assign(rank=np.arange(1, len(table) + 1))


def _eligible(rows: pd.DataFrame) -> Mask:
    """Which rows of ranking/predictions may be chosen: those predicted and not dropped."""
    known: Mask = np.isfinite(rows["cautious"].to_numpy())
    return known


def _scores(table: pd.DataFrame) -> dict[str, Any]:
    """The row of ranking/scores for one predictor's table."""
    predicted, low, high, p_best, truth = (
        table[name].to_numpy(dtype=float)
        for name in ("predicted", "low", "high", "p_best", "measured")
    )
    eligible = _eligible(table)
    return {
        "budget": table["budget"].iloc[0],
        "predictor": table["predictor"].iloc[0],
        "pearson": scores.pearson(predicted, truth),
        "spearman": scores.spearman(predicted, truth),
        "kendall": scores.kendall(predicted, truth),
        "rel_acc": scores.rel_acc(predicted, truth, eligible),
        "regret": scores.regret(predicted, truth, eligible),
        "rmse_log": scores.rmse_log(predicted, truth),
        "coverage_80": scores.coverage_80(low, high, truth),
        "p_best_log_score": scores.p_best_log_score(p_best, truth),
    }


def _comparison(
    backtest: Backtest, question: Question, measured: Array, predictions: pd.DataFrame
) -> pd.DataFrame:
    """Confidence of the scores at the largest budget, paired with the reference's."""
    names, curves = question.predictors, backtest.curves
    last = predictions[predictions["budget"] == predictions["budget"].max()]
    by_name = {
        str(name): rows.set_index("candidate").loc[list(curves.candidates)]
        for name, rows in last.groupby("predictor", sort=False)
    }
    predicted = {name: [rows["predicted"].to_numpy()] for name, rows in by_name.items()}
    repeats = curves.losses.shape[2]
    for replicate in range(_SEED_REPLICATES if repeats > 1 else 0):
        draw = seeds.generator(question.seed, "seeds", replicate).integers(repeats, size=repeats)
        again = Backtest(replace(curves, losses=curves.losses[:, :, draw]), question.target)
        answers = _answers(again, names, backtest)
        for name, rows in predicted.items():
            rows.append(answers.get(name, np.full(len(measured), np.nan)))
    if question.reference not in predicted:
        return pd.DataFrame()
    stacked = {name: np.stack(rows) for name, rows in predicted.items()}
    eligible = _eligible(by_name[question.reference])
    return bootstrap.compare(
        stacked, measured, question.reference, question.seed, eligible=eligible
    )


def _answers(again: Backtest, names: Sequence[str], first: Backtest) -> dict[str, Array]:
    """(M,) losses at the target, of the predictors that have an answer.

    Mixtures keep the weights of the ``first`` backtest: another one costs ten times the answer.
    """
    known = len(again.curves.sizes)
    answers = {}
    for name in names:
        try:
            shares = first.weights(name, known)
            logs = [share * np.log(again.ask(p, known).loss[:, -1]) for p, share in shares.items()]
        except DataError:
            continue
        answers[name] = np.exp(np.sum(logs, axis=0))
    return answers


def _frame(table: str, rows: pd.DataFrame | Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """``rows`` with the columns and types of the schema, even when there are none."""
    wanted = schema(table)
    types = {field.name: field.type.to_pandas_dtype() for field in wanted}
    return pd.DataFrame(rows, columns=wanted.names).astype(
        {name: str if kind is np.str_ else kind for name, kind in types.items()}
    )
