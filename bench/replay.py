"""Every predictor × budget × table of Lin et al. 2024 beside their published scores; sweep policies
and learnt priors on the same tables; the time all that takes."""

import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from bench import published
from bench.timing import markdown
from lensllm.curves import tables
from lensllm.curves.curve import Curves, curves_from_cells
from lensllm.predictors import PREDICTORS, hrb, reads, with_settings
from lensllm.selection import scores
from lensllm.selection.answers import Question
from lensllm.selection.policy import simulate
from lensllm.selection.ranking import Ranking, choice, rank

TABLES = {"flan": "FLAN", "gigaword": "Gigaword"}
BUDGETS = tuple(200.0 * 2.0 ** np.arange(4, 11))  # as published: target/512 … target/8
TARGET = 1_638_400.0
# our names of what Lin et al. compare; OurFit is their fit of the rectified law
PEERS = {
    "zero_shot": "ZeroShot", "model_size": "ModelSize", "sub_tuning": "SubTuning",
    "vanilla": "VanillaFit", "published fit": "OurFit", "ats": "AtS",
}  # fmt: skip
# those that need no more than a table of losses
OF_LOSSES = tuple(name for name in PREDICTORS if reads(name) <= {"past"})
PUBLISHED = Path(__file__).with_name("published_scores.csv")


@cache
def curves_of(name: str) -> Curves:
    """All that the table holds, the target included."""
    return curves_from_cells(tables.read(name).cells, "nats_per_token", int(TARGET))


def truth(name: str) -> np.ndarray:
    return curves_of(name).losses[:, -1, 0]


def question(budgets: tuple[float, ...] = BUDGETS, reference: str = "stack") -> Question:
    return Question(TARGET, budgets, OF_LOSSES, reference, seed=0)


@cache
def ranking(name: str) -> tuple[Ranking, float]:
    """The table-only predictors at all budgets, and the seconds it took."""
    begin = time.perf_counter()
    found = rank(curves_of(name), question(), truth(name))
    return found, time.perf_counter() - begin


def peers(name: str, metric: str) -> pd.DataFrame:
    """The published scores, methods × budgets."""
    rows = pd.read_csv(PUBLISHED)
    rows = rows[(rows["dataset"] == TABLES[name].upper()) & (rows["metric"] == metric)]
    return rows.pivot_table(index="method", columns="max_data_num", values="value")


def agreement() -> str:
    """Whether AtS is the published AtS, digit by digit."""
    rows = []
    for name in TABLES:
        for metric, column in (("PearCorr", "pearson"), ("RelAcc", "rel_acc")):
            found = ranking(name)[0].scores
            ours = found[found["predictor"] == "ats"].set_index("budget")[column]
            gap = (ours - peers(name, metric).loc["AtS"]).abs().max()
            rows.append([TABLES[name], metric, f"{gap:.5f}"])
    return markdown("AtS: largest difference from a published score, which has three digits",
                    ["table", "score", "difference"], rows)  # fmt: skip


def by_budget(name: str) -> str:
    """PearCorr of every predictor at every budget, beside the published ones."""
    known = peers(name, "PearCorr")
    measured = ranking(name)[0].scores.pivot_table(
        index="predictor", columns="budget", values="pearson", sort=False
    )
    fits = [scores.pearson(_refitted(name, b), truth(name)) for b in BUDGETS]
    measured.loc["published fit"] = fits
    rows = []
    for predictor, values in measured.iterrows():
        rows.append([str(predictor), *(f"{v:.3f}" for v in values), f"{values.mean():.3f}"])
        if (peer := PEERS.get(str(predictor))) in known.index:
            theirs = known.loc[peer]
            rows.append(
                [f"— {peer}, published", *(f"{v:.3f}" for v in theirs), f"{theirs.mean():.3f}"]
            )
    columns = ["predictor", *(f"{b:,.0f}" for b in BUDGETS), "mean"]
    return markdown(f"{TABLES[name]}: PearCorr by budget, target {TARGET:,.0f}", columns, rows)


def means(name: str) -> str:
    """All scores, as means over the budgets."""
    columns = ["pearson", "spearman", "rel_acc", "rmse_log", "coverage_80", "p_best_log_score"]
    found, seconds = ranking(name)
    mean = found.scores.groupby("predictor", sort=False)[columns].mean()
    rows = [[str(p), *(f"{v:.3f}" for v in values)] for p, values in mean.iterrows()]
    title = (
        f"{TABLES[name]}: means over the budgets (a uniform P(best) scores "
        f"{np.log(len(truth(name))):.2f}); all of it took {seconds:.1f} s"
    )
    return markdown(title, ["predictor", "PearCorr", "Spearman", "RelAcc", "RMSE log", "in 80 %",
                            "−ln P(best)"], rows)  # fmt: skip


def policies() -> str:
    """What sweep policies choose and save, every size below the target for sale."""
    rows = []
    for name in TABLES:
        curves, losses_ = curves_of(name).until(TARGET / 2), truth(name)
        for policy in ("adaptive", "halving"):
            played = simulate(policy, curves, question())
            last = played.curves.sizes[-1]
            asked = replace(question((last,)), predictors=("stack",))
            out = played.decisions.loc[played.decisions["dropped"] != "", "candidate"]
            picked = choice(rank(played.curves, asked, None, set(out)).predictions)
            loss = losses_[curves.candidates.index(picked)]
            accuracy = (losses_.max() - loss) / np.ptp(losses_)
            saved = 1 - played.examples / (TARGET * len(losses_))
            rows.append([TABLES[name], policy, picked, f"{accuracy:.3f}", f"{saved:.1%}",
                         f"{last:,.0f}"])  # fmt: skip
    columns = ["table", "policy", "choice", "RelAcc", "examples saved", "largest D"]
    return markdown("Sweep policies, played on the tables", columns, rows)


def priors() -> str:
    """HRB and the stack with the prior learnt from the other table."""
    rows = []
    for name in TABLES:
        other = next(n for n in TABLES if n != name)
        learnt = hrb.learn([curves_of(other).until(TARGET)])
        asked = replace(question(), registry=with_settings({"hrb": {"prior": learnt}}))
        moved = rank(curves_of(name), asked, truth(name)).scores
        for label, found in (
            ("built in", ranking(name)[0].scores),
            (f"and {TABLES[other]}", moved),
        ):
            for predictor in ("hrb", "stack"):
                row = found[found["predictor"] == predictor].mean(numeric_only=True)
                values = row[["pearson", "rel_acc", "rmse_log", "coverage_80", "p_best_log_score"]]
                rows.append([TABLES[name], label, predictor, *(f"{v:.3f}" for v in values)])
    columns = ["table", "prior", "predictor", "PearCorr", "RelAcc", "RMSE log", "in 80 %",
               "−ln P(best)"]  # fmt: skip
    return markdown("Prior learnt from another data set, means over the budgets", columns, rows)


def _refitted(name: str, budget: float) -> np.ndarray:
    """The published fitting procedure, re-implemented."""
    return published.predict(curves_of(name).until(budget), TARGET)


def table() -> str:
    parts = [part for name in TABLES for part in (by_budget(name), means(name))]
    return "\n".join([*parts, agreement(), policies(), priors()])
