"""Rectified law on 30 curves: variable projection for all at once against scipy, curve by curve."""

import numpy as np
from scipy.optimize import minimize

from bench.timing import markdown, medians
from lensllm import seeds
from lensllm.curves import Curves
from lensllm.laws import rectified

SIZES = 200.0 * 2.0 ** np.arange(8)
STARTS = 10  # random starts of the general optimiser per curve


def curves(count: int = 30) -> Curves:
    draw = seeds.generator(0, "bench laws")
    beta, offset = draw.uniform(0.2, 0.8, count), np.exp(draw.uniform(2, 6, count))
    scale, floor = np.exp(draw.uniform(1, 5, count)), draw.uniform(0.2, 2, count)
    losses = scale[:, None] / (offset[:, None] + SIZES ** beta[:, None]) + floor[:, None]
    losses *= np.exp(draw.normal(0, 0.005, losses.shape))
    names = tuple(f"candidate-{i}" for i in range(count))
    return Curves(names, SIZES, losses[:, :, None])


def by_scipy(data: Curves) -> np.ndarray:
    """RMS log residual per curve: BFGS with numerical gradients from random starts."""
    draw = seeds.generator(0, "bench starts")

    def fit(losses: np.ndarray) -> float:
        def squares(p: np.ndarray) -> float:
            scale, beta, floor, offset = np.exp(np.clip(p, -30, 30))
            with np.errstate(over="ignore"):  # a bad step of the line search
                predicted = scale / (offset + SIZES**beta) + floor
            return float(np.square(np.log(predicted) - np.log(losses)).mean())

        ends = [
            minimize(squares, draw.normal([3, -1, 0, 3], 1.0), method="BFGS").fun
            for _ in range(STARTS)
        ]
        return float(np.sqrt(min(ends)))

    return np.array([fit(row) for row in data.mean_losses])


def table() -> str:
    data = curves()
    seconds = medians({"ours": lambda: rectified.fit(data), "scipy": lambda: by_scipy(data)}, 3)
    ours, theirs = rectified.fit(data).rmse_log, by_scipy(data)
    rows = [
        ["variable projection", f"{1e3 * seconds['ours']:.0f} ms", "1.0", f"{ours.mean():.6f}"],
        [
            f"scipy BFGS, {STARTS} starts a curve",
            f"{1e3 * seconds['scipy']:.0f} ms",
            f"{seconds['scipy'] / seconds['ours']:.0f}",
            f"{theirs.mean():.6f}",
        ],
    ]
    return markdown(
        "Rectified law, 30 curves of 8 sizes",
        ["way", "median", "ratio", "mean RMSE of log loss"],
        rows,
    )
