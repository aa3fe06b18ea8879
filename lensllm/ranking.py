"""Rank the candidates by their predicted loss at the target, and say it in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from lensllm import scores
from lensllm.curves import Array, Curves, Metric
from lensllm.errors import ConfigError, DataError
from lensllm.predictors import PREDICTORS
from lensllm.schemas import schema
from lensllm.uncertainty import forecast, spread

# below this chance the first place is not a finding
_CLEAR = 0.5


@dataclass(frozen=True)
class Ranking:
    """What every predictor says, and how right it was where the truth is known."""

    predictions: pd.DataFrame  # schema ranking/predictions, by predictor, then rank
    scores: pd.DataFrame  # schema ranking/scores; no rows when the truth is unknown
    skipped: dict[str, str]  # predictor -> the sentence that says what it lacked


def rank(
    curves: Curves,
    target: float,
    predictors: Sequence[str],
    truth: Array | None,
    seed: int,
    draws: int = 4000,
) -> Ranking:
    """Ask each of ``predictors`` for the losses at ``target``, with intervals and P(best).

    ``truth`` is the measured loss at the target, (M,) with NaN where unknown. A predictor that
    lacks an input is skipped. Raises ConfigError for a name that is not in the registry and
    DataError when no predictor is left.
    """
    unknown = [name for name in predictors if name not in PREDICTORS]
    if unknown:
        raise ConfigError(
            f"Predictor {unknown[0]!r} does not exist: choose among {', '.join(PREDICTORS)}."
        )
    measured = np.full(len(curves.candidates), np.nan) if truth is None else truth
    tables, skipped = [], {}
    for name in predictors:
        try:
            tables.append(_predictions(name, curves, target, measured, seed, draws))
        except DataError as error:
            skipped[name] = str(error)
    if not tables:
        raise DataError(f"No predictor can rank these candidates. {' '.join(skipped.values())}")
    scored = tables if truth is not None and np.isfinite(truth).any() else []
    return Ranking(pd.concat(tables, ignore_index=True), _scores(scored), skipped)


def verdict(predictions: pd.DataFrame, predictor: str, target: float, metric: Metric) -> str:
    """One sentence for the user: who is predicted best, how surely, and who comes next.

    ``predictions`` follow the schema ranking/predictions. Raises DataError when ``predictor`` is
    not among them.
    """
    rows = predictions[predictions["predictor"] == predictor].sort_values("rank")
    rows = rows[np.isfinite(rows["predicted"])]
    if rows.empty:
        raise DataError(f"Predictor {predictor} made no prediction: see why it was skipped.")
    best = rows.iloc[0]
    size = f"D = {target:,.0f}"
    loss = (
        f"{best['predicted']:.3f} {metric.replace('_', ' ')}, "
        f"80 % interval {best['low']:.3f}–{best['high']:.3f}"
    )
    if len(rows) == 1:
        return f"{best['candidate']} is the only candidate with a prediction at {size} ({loss})."
    second = rows.iloc[1]
    if best["p_best"] < _CLEAR:
        rival = rows.iloc[1:].sort_values("p_best", kind="stable").iloc[-1]
        return (
            f"Too close to call at {size}: {best['candidate']} is predicted best ({loss}), "
            f"but P(best) is only {_percent(best['p_best'])}, "
            f"against {_percent(rival['p_best'])} for {rival['candidate']}."
        )
    return (
        f"{best['candidate']} is predicted best at {size} ({loss}), "
        f"P(best) {_percent(best['p_best'])}; the runner-up is {second['candidate']}."
    )


def _percent(chance: float) -> str:
    return f"{100 * chance:.0f} %"


def _predictions(
    name: str, curves: Curves, target: float, measured: Array, seed: int, draws: int
) -> pd.DataFrame:
    """Rows of ranking/predictions for one predictor, best first, unpredicted candidates last."""
    predictor = PREDICTORS[name]
    predicted = predictor.predict(curves, target).loss
    uncertainty = spread(curves, target, predictor)
    outlook = forecast(curves.candidates, predicted, uncertainty, seed, draws)
    order = np.argsort(predicted, kind="stable")
    known = np.isfinite(measured)
    measured_rank = np.zeros(len(measured), dtype=np.int64)
    measured_rank[known] = rankdata(measured[known], method="min")
    table = pd.DataFrame(
        {
            "predictor": name,
            "candidate": curves.candidates,
            "rank": 0,
            "predicted": predicted,
            "low": outlook.low,
            "high": outlook.high,
            "p_best": outlook.p_best,
            "measured": measured,
            "measured_rank": measured_rank,
        }
    )
    return table.iloc[order].assign(rank=np.arange(1, len(order) + 1))


def _scores(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Rows of ranking/scores, one for each predictor's table."""
    rows = []
    for table in tables:
        predicted, low, high, p_best, truth = (
            table[name].to_numpy(dtype=float)
            for name in ("predicted", "low", "high", "p_best", "measured")
        )
        rows.append(
            {
                "predictor": table["predictor"].iloc[0],
                "pearson": scores.pearson(predicted, truth),
                "spearman": scores.spearman(predicted, truth),
                "kendall": scores.kendall(predicted, truth),
                "rel_acc": scores.rel_acc(predicted, truth),
                "regret": scores.regret(predicted, truth),
                "rmse_log": scores.rmse_log(predicted, truth),
                "coverage_80": scores.coverage_80(low, high, truth),
                "p_best_log_score": scores.p_best_log_score(p_best, truth),
            }
        )
    columns = schema("ranking/scores").names
    types = {name: str if name == "predictor" else float for name in columns}
    return pd.DataFrame(rows, columns=columns).astype(types)
