"""The ranking of the candidates by their predicted loss at the target, and its verdict in words."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from lensllm.core.errors import ConfigError, DataError
from lensllm.curves.curve import Array, Curves, Mask, Metric
from lensllm.predictors import PREDICTORS, Mixture, Registry
from lensllm.selection import bootstrap, scores
from lensllm.selection.answers import ALL, RACING, Question, curve_sets
from lensllm.selection.backtest import Backtest, StoredAnswers
from lensllm.selection.uncertainty import Draws, error_scale, outlook

# a choice is clear that is more likely than not the best, and twice as likely as any other
_CLEAR, _ODDS = 0.5, 2.0
_DROPPED_CHANCE = 0.02  # that one of those dropped is the best after all, shared by them
_PREDICTIONS = {
    "budget": np.int64, "predictor": str, "candidate": str, "rank": np.int64, "predicted": float,
    "low": float, "high": float, "cautious": float, "p_best": float, "expected_regret": float,
    "measured": float, "measured_rank": np.int64,
}  # fmt: skip
_SCORES = {"budget": np.int64, "predictor": str, **dict.fromkeys(scores.NAMES, float)}
_COMPARISON = {
    "predictor": str, "score": str, "value": float, "low": float, "high": float,
    "difference": float, "difference_low": float, "difference_high": float,
}  # fmt: skip
_WEIGHTS = {"budget": np.int64, "predictor": str, "part": str, "weight": float}
_SKIPPED = {"budget": np.int64, "predictor": str, "reason": str}


@dataclass(frozen=True)
class Ranking:
    """Answers of every predictor at every budget, with scores where the truth is known."""

    predictions: pd.DataFrame  # schema ranking/predictions, by budget, predictor, then rank
    scores: pd.DataFrame  # schema ranking/scores; no rows when the truth is unknown
    comparison: pd.DataFrame  # schema ranking/comparison; no rows when the truth is unknown
    weights: pd.DataFrame  # schema ranking/weights
    skipped: pd.DataFrame  # schema ranking/skipped: the sentence that says what was lacking


def rank(
    curves: Curves,
    question: Question,
    truth: Array | None = None,
    dropped: Collection[str] = (),
    answers: Mapping[str, StoredAnswers] | None = None,
) -> Ranking:
    """Ask the predictors for the losses at the target from the curves up to each budget.

    ``truth`` is the measured loss at the target, (M,) with NaN where unknown. Candidates that a
    sweep's policy has ``dropped`` stand last, and the others are judged without them. A predictor
    that lacks an input is skipped. With ``answers``, by set of curves, no predictor is asked.
    Raises ConfigError for an unknown predictor and DataError when no predictor is left.
    """
    registry = question.registry
    unknown = [name for name in question.predictors if name not in registry]
    if unknown:
        raise ConfigError(
            f"Predictor {unknown[0]!r} does not exist: choose among {', '.join(registry)}."
        )
    measured = np.full(len(curves.candidates), np.nan) if truth is None else truth
    scored = bool(np.isfinite(measured).any())
    sets = curve_sets(curves, question, scored, dropped)
    stored: Mapping[str, StoredAnswers] = answers or {}
    pools = [
        CandidatePool.of(sets[label], question, stored.get(label))
        for label in (ALL, RACING)
        if label in sets
    ]
    whole = pools[0].backtest
    tables, weights, skipped = [], list[dict[str, Any]](), list[dict[str, Any]]()
    for known in map(whole.known, question.budgets):
        for name in question.predictors:
            budget = int(whole.curves.sizes[known - 1])
            about: dict[str, Any] = {"budget": budget, "predictor": name}
            try:
                tables.append(_predictions(pools, name, known, measured).assign(**about))
            except DataError as error:
                skipped.append({**about, "reason": str(error)})
                continue
            if isinstance(registry[name], Mixture):
                shares = pools[-1].backtest.weights(name, known)
                weights += [{**about, "part": p, "weight": share} for p, share in shares.items()]
    if not tables:
        reasons = " ".join(dict.fromkeys(row["reason"] for row in skipped))
        raise DataError(f"No predictor can rank these candidates. {reasons}")
    predictions = pd.concat(tables, ignore_index=True)
    resampled = [
        Backtest(some, question.target, registry, question.error_unit, stored.get(label))
        for label, some in sets.items()
        if label not in (ALL, RACING)
    ]
    compared, judged = pd.DataFrame(), list[dict[str, Any]]()
    if scored:
        compared = _comparison(whole, resampled, question, measured, predictions)
        for table in tables:
            about = dict(table[["budget", "predictor"]].iloc[0])
            truth_by_name = dict(zip(table["candidate"], table["measured"], strict=True))
            judged.append({**about, **score_ranking(table, truth_by_name)})
    return Ranking(
        _frame(_PREDICTIONS, predictions),
        _frame(_SCORES, judged),
        _frame(_COMPARISON, compared),
        _frame(_WEIGHTS, weights),
        _frame(_SKIPPED, skipped),
    )


def rank_curves(
    curves: Curves,
    target: float,
    predictor: str = "stack",
    *,
    seed: int = 0,
    draws: int = 4000,
    registry: Registry = PREDICTORS,
) -> pd.DataFrame:
    """Rank the candidates by one predictor's loss at ``target`` examples, the best first.

    One row per candidate with the columns candidate, rank, predicted (loss, in the unit of the
    curves), low and high (80 % interval), cautious (predicted and half an own sd: choose the
    lowest), p_best and expected_regret. Raises ConfigError when there is no such predictor, and
    DataError when it cannot answer or ``target`` is not above the largest size of the curves.

    >>> sizes = 100 * 2.0 ** np.arange(6)
    >>> losses = np.stack([3 * sizes**-0.05, 4 * sizes**-0.1])
    >>> table = rank_curves(Curves(("gpt2", "opt"), sizes, losses[:, :, None]), 102_400, "ats")
    >>> table[["candidate", "rank", "predicted"]].round(3)
      candidate  rank  predicted
    0       opt     1      1.262
    1      gpt2     2      1.685
    """
    if target <= (largest := curves.sizes[-1]):
        raise DataError(
            f"the target {target:,.0f} is not above the largest size {largest:,.0f}: nothing is "
            "left to predict; leave out what is to be predicted with curves.until(…)"
        )
    question = Question(target, (curves.sizes[-1],), (predictor,), predictor, seed, draws, registry)
    table = rank(curves, question).predictions
    return table.drop(columns=["budget", "predictor", "measured", "measured_rank"])


def score_ranking(ranking: pd.DataFrame, truth: Mapping[str, float]) -> dict[str, float]:
    """Score a ranking against measured losses at the target.

    Args:
        ranking: one row per candidate, as ``rank_curves`` returns.
        truth: measured loss by candidate; candidates without one are left out of the scores.

    Returns:
        Correlations *pearson*, *spearman* and *kendall*; *rel_acc* = (worst − chosen) / (worst −
        best) (Lin et al. 2024); *regret*, in the unit of the losses; *rmse_log* of the log loss;
        *coverage_80*, the share of the truths in their intervals; and *p_best_log_score* = −ln
        P(best) of the truly best candidate. A score without a meaning is NaN.

    Raises:
        DataError: ``truth`` has a candidate that is not in the ranking.

    >>> sizes = 100 * 2.0 ** np.arange(6)
    >>> losses = np.stack([3 * sizes**-0.05, 4 * sizes**-0.1])
    >>> ranking = rank_curves(Curves(("gpt2", "opt"), sizes, losses[:, :, None]), 102_400, "ats")
    >>> score_ranking(ranking, {"gpt2": 1.69, "opt": 1.25})["rel_acc"]
    1.0
    """
    known = ranking["candidate"].tolist()
    if unknown := set(truth) - set(known):
        raise DataError(f"there is no candidate {min(unknown)!r} in the ranking")
    measured = np.array([truth.get(name, np.nan) for name in known], dtype=float)
    predicted, low, high, p_best = (
        ranking[name].to_numpy(dtype=np.float64) for name in ("predicted", "low", "high", "p_best")
    )
    return {
        **scores.score(predicted, measured, _eligible(ranking)),
        "coverage_80": scores.coverage_80(low, high, measured),
        "p_best_log_score": scores.p_best_log_score(p_best, measured),
    }


def choice(rows: pd.DataFrame) -> str:
    """The candidate to fine-tune: the lowest cautious prediction of one predictor's ``rows``.

    Raises DataError when there is none.
    """
    known = rows[_eligible(rows)]
    if known.empty:
        raise DataError("There is no prediction to choose by: see why predictors were skipped.")
    best: str = known.sort_values(["cautious", "rank"]).iloc[0]["candidate"]
    return best


def verdict(predictions: pd.DataFrame, predictor: str, target: float, metric: Metric) -> str:
    """One or two sentences for the user: whom to choose, how surely, and at what risk.

    ``predictions`` follow ranking/predictions at one budget. Raises DataError when ``predictor``
    is not among them.
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
            f"but P(best) is only {100 * chosen['p_best']:.0f} %, "
            f"against {100 * rival['p_best']:.0f} % for {rival['candidate']}; {risk}."
        )
    else:
        text = (
            f"{chosen.name} is {best} at {size} ({loss}), "
            f"P(best) {100 * chosen['p_best']:.0f} %, {risk}; "
            f"the runner-up is {lower['candidate']}."
        )
    if lower["rank"] < chosen["rank"]:
        text += (
            f" {lower['candidate']} is predicted lower ({lower['predicted']:.3f}) "
            "but less surely, by more than it would gain."
        )
    return text


@dataclass(frozen=True)
class CandidatePool:
    """Candidates that compete with each other."""

    backtest: Backtest
    draws: Draws

    @classmethod
    def of(
        cls, curves: Curves, question: Question, answers: StoredAnswers | None = None
    ) -> CandidatePool:
        """The pool of all candidates of ``curves``, known up to the largest budget."""
        known = curves.until(question.budgets[-1])
        backtest = Backtest(known, question.target, question.registry, question.error_unit, answers)
        return cls(backtest, Draws.of(curves.candidates, question.seed, question.draws))

    def outlook(self, name: str, known: int) -> pd.DataFrame:
        """One predictor's outlook from the first ``known`` sizes, by candidate."""
        predicted = self.backtest.ask(name, known).loss[:, -1]
        expected = outlook(predicted, error_scale(self.backtest, name, known), self.draws)
        names = pd.Index(self.backtest.curves.candidates, name="candidate")
        return pd.DataFrame({"predicted": predicted, **vars(expected)}, index=names)


def _predictions(
    pools: Sequence[CandidatePool], name: str, known: int, measured: Array
) -> pd.DataFrame:
    """One predictor's rows, best first, then the dropped, then those without a prediction."""
    table = pools[0].outlook(name, known)
    truth_known = np.isfinite(measured)
    measured_rank = np.zeros(len(measured), dtype=np.int64)
    measured_rank[truth_known] = rankdata(measured[truth_known], method="min")
    table = table.assign(measured=measured, measured_rank=measured_rank, out=False)
    if len(pools) > 1:
        racing = pools[1].outlook(name, known)
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


def _comparison(
    backtest: Backtest,
    resampled: Sequence[Backtest],
    question: Question,
    measured: Array,
    predictions: pd.DataFrame,
) -> pd.DataFrame:
    """Confidence of the scores at the largest budget, paired with the reference's."""
    last = predictions[predictions["budget"] == predictions["budget"].max()]
    by_name = {
        str(name): rows.set_index("candidate").loc[list(backtest.curves.candidates)]
        for name, rows in last.groupby("predictor", sort=False)
    }
    if question.reference not in by_name:
        return pd.DataFrame()
    predicted = {name: [rows["predicted"].to_numpy()] for name, rows in by_name.items()}
    for again in resampled:
        for name, rows in predicted.items():
            rows.append(_resampled_answer(again, name, backtest))
    return bootstrap.compare(
        {name: np.stack(rows) for name, rows in predicted.items()},
        measured,
        question.reference,
        question.seed,
        eligible=_eligible(by_name[question.reference]),
    )


def _resampled_answer(again: Backtest, name: str, first: Backtest) -> Array:
    """(M,) losses at the target from resampled repeats; NaN without an answer.

    A mixture keeps its weights of the ``first`` backtest: another one costs ten times the answer.
    """
    known = len(again.curves.sizes)
    try:
        shares = first.weights(name, known)
        logs = [share * np.log(again.ask(p, known).loss[:, -1]) for p, share in shares.items()]
    except DataError:
        return np.full(len(again.curves.candidates), np.nan)
    loss: Array = np.exp(np.sum(logs, axis=0))
    return loss


def _frame(
    types: Mapping[str, type], rows: pd.DataFrame | Sequence[Mapping[str, Any]]
) -> pd.DataFrame:
    """``rows`` with these columns and types, even when there are none."""
    return pd.DataFrame(rows, columns=list(types)).astype(types)
