"""law: scaling laws fitted to every candidate's curve up to the budget.

Key: curves, kernels, metric, budget and the law's settings. Table: ``fits``.
"""

from collections.abc import Mapping
from contextlib import suppress
from functools import partial

from lensllm.core.errors import DataError
from lensllm.laws import fit, lensllm, rectified, vanilla
from lensllm.store.artifacts import Recipe, Ref, write_table
from tasks.base.goal import Goal
from tasks.base.stage import Step, Work
from tasks.stages import curve

VERSION = 2


def step(goal: Goal, upstream: Mapping[str, Ref]) -> Step:
    """``upstream`` has curve, and kernel:… by label."""
    recipe = Recipe("law", VERSION, goal.curve_params, upstream)
    return Step("laws", recipe, in_worker=False)


def build(work: Work) -> None:
    curves = curve.read(work)
    fits = []
    for law in (
        vanilla.fit,
        rectified.fit,
        partial(lensllm.fit, mode="prediction"),
        partial(lensllm.fit, mode="phase"),
        partial(lensllm.fit, mode="pooled"),
    ):
        with suppress(DataError):  # too few sizes or no kernels for this law: its rows are missing
            fits.append(law(curves))
    write_table(work.folder, "law/fits", fit.fits_frame(fits))
