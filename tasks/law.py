"""law: scaling laws fitted to every candidate's curve up to the budget.

Key: curves, kernels, metric, budget and the law's settings. Table: ``fits``.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial

from lensllm.config import Pipeline
from lensllm.curves import Curves, curves_from_cells
from lensllm.errors import DataError
from lensllm.laws import fit, lensllm, rectified, vanilla
from lensllm.store import Recipe, Ref, write_table
from tasks import kernel
from tasks.stage import Step, Work

VERSION = 1


def step(config: Pipeline, curve: Ref, kernels: Mapping[str, Ref]) -> Step:
    params = {
        "metric": config.ranking.metric,
        "budget": config.sweep.max,
        "scale": config.law.scale,
    }
    recipe = Recipe("law", VERSION, params, {"curve": curve, **_roles(kernels)})
    return Step("laws", recipe, in_worker=False)


def build(work: Work) -> None:
    curves = read_curves(work)
    fits = []
    for law in (
        vanilla.fit,
        rectified.fit,
        partial(lensllm.fit, mode="prediction"),
        partial(lensllm.fit, mode="phase"),
    ):
        with suppress(DataError):  # too few sizes or no kernels for this law: its rows are missing
            fits.append(law(curves))
    write_table(work.folder, "law/fits", fit.fits_frame(fits))


def read_curves(work: Work) -> Curves:
    """The observed curves of a law or ranking stage, with the kernels it was given."""
    spectra = {
        role.removeprefix("kernel:"): kernel.read_spectrum(work.store, ref)
        for role, ref in work.upstream.items()
        if role.startswith("kernel:")
    }
    cells = work.store.table(work.upstream["curve"], "cells")
    curves = curves_from_cells(cells, work.params["metric"], work.params["budget"], spectra or None)
    return replace(curves, kernel_scale=work.params["scale"])


def _roles(kernels: Mapping[str, Ref]) -> dict[str, Ref]:
    return {f"kernel:{name}": ref for name, ref in kernels.items()}
