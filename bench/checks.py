"""What two numbered checks tell of errors, on the tables of Lin et al. 2024: docs/checks.md.

A candidate's own error is that of its log loss less the mean over the candidates, which moves every
curve alike and changes no order.
"""

import numpy as np
import pandas as pd

from bench.replay import BUDGETS, TABLES, TARGET, curves_of, truth
from bench.timing import markdown
from lensllm.curves.curve import Array, Curves, Mask
from lensllm.diagnostics.checks import RANKING_CHECKS, RankingEvidence
from lensllm.laws import fit_rectified, fits_frame
from lensllm.predictors import predict


def own_errors(name: str, predictor: str) -> Array:
    """(budgets, M) errors of the log loss at the target."""
    rows = [predict(curves_of(name).until(budget), TARGET, predictor) for budget in BUDGETS]
    errors = np.log(np.stack(rows)) - np.log(truth(name))
    return errors - errors.mean(1, keepdims=True)


def fires(known: Curves) -> Mask:
    """(M,) candidates for whom LENS101 fires, asked one by one: many would be one sentence."""
    fits, nothing = fits_frame([fit_rectified(known)]), pd.DataFrame()
    asked = [fits[fits["candidate"] == name] for name in known.candidates]
    evidence = (
        RankingEvidence(known, TARGET, "nats_per_token", nothing, fit, None) for fit in asked
    )
    return np.array([bool(RANKING_CHECKS["LENS101"].find(one)) for one in evidence])


def ratio(errors: Array, fired: Mask) -> float:
    """RMS of ``errors`` where it ``fired`` over that elsewhere, each in units of its budget's."""
    squares = errors**2 / np.square(errors).mean(1, keepdims=True)
    return float(np.sqrt(squares[fired].mean() / squares[~fired].mean()))


def too_few_sizes() -> str:
    rows = []
    for name, title in TABLES.items():
        fired = np.array([fires(curves_of(name).until(budget)) for budget in BUDGETS])
        rows += [
            [title, predictor, f"{fired.sum()} of {fired.size}",
             f"{ratio(own_errors(name, predictor), fired):.2f}"]
            for predictor in ("rectified", "hrb")
        ]  # fmt: skip
    return markdown(
        f"LENS101: own errors where it fires over those where it does not, {BUDGETS[0]:,.0f} to "
        f"{BUDGETS[-1]:,.0f}",
        ["table", "predictor", "fires", "ratio at the same budget"],
        rows,
    )


def far_away() -> str:
    doublings = [f"{np.log2(TARGET / budget):.0f}" for budget in BUDGETS]
    rows = [
        [title, *(f"{sd:.3f}" for sd in own_errors(name, "hrb").std(1, ddof=1)),
         f"{np.log(truth(name)).std(ddof=1):.3f}"]
        for name, title in TABLES.items()
    ]  # fmt: skip
    return markdown(
        "LENS102: standard deviation of hrb's own errors by doublings to the target",
        ["table", *doublings, "of the true log losses"],
        rows,
    )


def table() -> str:
    return f"{too_few_sizes()}\n{far_away()}"
