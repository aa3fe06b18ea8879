"""law: scaling laws fitted to every candidate's curve up to the budget.

Key: curves, kernels, metric, budget and how the LensLLM laws read the kernel. Table: ``fits``.
"""

from collections.abc import Mapping
from contextlib import suppress

from lensllm.core.errors import DataError
from lensllm.laws import fits_frame, laws
from lensllm.store.artifacts import Recipe, Ref, write_table
from tasks.base.goal import Goal
from tasks.base.stage import Step, Work
from tasks.stages import curve

VERSION = 2


def step(goal: Goal, upstream: Mapping[str, Ref]) -> Step:
    """``upstream`` has curve, and kernel:… by label."""
    params = {**goal.curve_params, "scale": goal.law.scale}
    return Step("laws", Recipe("law", VERSION, params, upstream), in_worker=False)


def build(work: Work) -> None:
    curves = curve.read(work)
    fits = []
    for fit in laws(work.params["scale"]).values():
        with suppress(DataError):  # too few sizes or no kernels for this law: its rows are missing
            fits.append(fit(curves))
    write_table(work.folder, "law/fits", fits_frame(fits))
