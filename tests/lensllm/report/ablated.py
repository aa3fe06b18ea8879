"""A synthetic ablation with known curves, in the shapes that its page meets."""

from collections.abc import Collection
from itertools import product

import numpy as np
import pandas as pd

from lensllm.core import seeds
from lensllm.curves.curve import Curves
from lensllm.laws import fit_rectified, fits_frame
from lensllm.predictors import AtS
from lensllm.report.ablation import AblationResult
from lensllm.selection.ablation import Outcome, Point, compare, verdict
from lensllm.selection.transitions import Transitions

SIZES, TARGET = 100 * 2.0 ** np.arange(6), 12_800
VALUES = {
    "law.tau": [5.0, 3.0, 8.0],
    "finetune.learning_rate": [1e-3, 5e-4, 2e-3],
    "data.source": ["builtin:docstrings", "builtin:names"],
    "sweep.zero_shot": [True, False],
}


def ablated(
    count: int = 6, keys: int = 2, truth: bool = True, failing: Collection[int] = ()
) -> AblationResult:
    """``count`` candidates over the first ``keys`` keys; the points at ``failing`` have failed."""
    names = [f"org/family-{i:02d}" for i in range(count)]
    beta, floor = np.linspace(0.6, 0.3, count), np.linspace(1.0, 1.6, count)
    offset = np.linspace(4, 40, count)
    axes = {key: VALUES[key] for key in list(VALUES)[:keys]}
    points = []
    for place, values in enumerate(product(*axes.values())):
        settings = dict(zip(axes, values, strict=True))
        if place in failing:
            points.append(Point(settings, None, f"every cell of <point {place}> failed"))
            continue
        moved = abs(np.log2(settings.get("finetune.learning_rate", 1e-3) / 1e-3))
        noise = seeds.generator(0, "ablated", int(1e4 * moved)).standard_normal((2, count))
        b = offset * np.exp(0.3 * moved * noise[0])

        def law(sizes: np.ndarray, b=b, shift=0.05 * moved * noise[1]) -> np.ndarray:
            return (
                1.5 * b[:, None] / (b[:, None] + sizes ** beta[:, None]) + (floor + shift)[:, None]
            )

        wobble = 1 + 1e-3 * (-1.0) ** np.arange(len(SIZES))
        losses = (law(SIZES) * wobble)[:, :, None]
        curves = Curves(tuple(names), SIZES, losses)
        ats = AtS(tau=settings["law.tau"])
        predicted = ats.predict(curves, np.array([float(TARGET)])).loss[:, 0]
        rows = pd.DataFrame(
            {
                "candidate": names,
                "predicted": predicted,
                "cautious": predicted,
                "p_best": 1 / count,
                "measured": law(np.array([float(TARGET)]))[:, 0] if truth else np.nan,
            }
        ).sort_values("predicted")
        rows["rank"] = np.arange(1, count + 1)
        fits = fits_frame([fit_rectified(curves)])
        of_law = Transitions.of_law(fits, curves, TARGET)
        found = Outcome("ats", 100, 3200, TARGET, rows, of_law, Transitions.of_ats(curves, ats))
        points.append(Point(settings, found))
    found = compare(points)
    lacking = [(0, "finetune <b>x</b> · D=100", "killed")] if failing else []
    config = {"law": {"tau": 5.0}, "data": {"source": "<i>&"}}
    return AblationResult(
        "demo", verdict(found.points), **vars(found), lacking=lacking, config=config
    )
