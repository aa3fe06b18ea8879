"""One self-contained page: no script, nothing fetched, light and dark, for screens and paper."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jinja2
import yaml
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from lensllm.report import (
    budget_figure,
    check,
    crossing_figure,
    curvature_figures,
    curvature_tables,
    diagnostic_figures,
    diagnostic_tables,
    figure,
    findings,
    forecast_tables,
    kernel_share,
    predictor_tables,
    recipe_tables,
    style,
    sweep_tables,
    tables,
    text,
)
from lensllm.report.data import ReportData

_FILTERS = (
    text.loss, text.score, text.change, text.significant, text.rough, text.percent, text.size,
    text.short, text.flops, text.memory, text.seconds, text.unbroken,
)  # fmt: skip


def render(data: ReportData) -> str:
    """The report as HTML; equal data give equal text."""
    return template("page.html.j2").render(
        data=data,
        figures=_figures(data),
        looks=style.looks(data),
        config=yaml.safe_dump(dict(data.config), sort_keys=False, allow_unicode=True),
        nan=math.nan,
        **_answer(data),
        **_comparison(data),
        **_diagnostics(data),
    )


def _answer(data: ReportData) -> dict[str, Any]:
    ranking = tables.ranking(data)
    return {
        "ranking": ranking,
        "chosen": next(row for row in ranking if row.chosen),
        "sized": any(math.isfinite(row.parameters) for row in ranking),
        "scale": tables.scale(data),
        "zero_shot": bool((data.cells["size"] == 0).any()),
        "unranked": [
            name for name in data.candidates if name not in set(data.ranking["candidate"])
        ],
        "incomplete": tables.incomplete(data),
        "check": check.was_it_right(data),
        "findings": findings.findings(data),
        "rounds": sweep_tables.rounds(data),
        "racers": sweep_tables.racers(data),
        "stop": sweep_tables.stop(data),
        "saved": sweep_tables.saved(data),
    }


def _comparison(data: ReportData) -> dict[str, Any]:
    predictors = predictor_tables.predictors(data)
    return {
        "predictors": predictors,
        "scores": predictor_tables.SCORES,
        "best_scores": predictor_tables.best_scores(predictors),
        "leads": predictor_tables.leads,
        "with_interval": predictor_tables.WITH_INTERVAL,
        "compared": list(dict.fromkeys(data.comparison["score"])),
        "mixtures": predictor_tables.mixtures(data),
        "skipped": predictor_tables.skipped(data),
        "by_budget": predictor_tables.by_budget(data),
        "log_candidates": math.log(len(data.ranking)),
    }


def _diagnostics(data: ReportData) -> dict[str, Any]:
    spent = tables.cost(data)
    first, others = tables.laws(data)
    return {
        "rate_choices": recipe_tables.choices(data),
        "unequal": recipe_tables.unequal(data.config),
        "infinity": math.inf,
        "laws": first,
        "other_laws": others,
        "kernels": diagnostic_tables.kernels(data),
        "probe_counts": diagnostic_tables.probe_counts(data),
        "contributions": kernel_share.contributions(data),
        "reads_kernel": kernel_share.reads_kernel,
        "layers": curvature_tables.layers(data),
        "transitions": curvature_tables.transitions(data),
        "agreement": curvature_tables.agreement(data),
        "worth": curvature_tables.worth(data),
        "density_scale": curvature_figures.linear_scale(data) if data.densities else math.nan,
        "broadening": curvature_figures.BROADENING,
        "cost": spent,
        "total": tables.total(spent),
        "forecasts": forecast_tables.forecasts(data),
    }


def template(name: str) -> jinja2.Template:
    """A page's template, with the filters that all pages share."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lensllm.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {function.__name__: function for function in (*_FILTERS, breakable)}
    return environment.get_template(name)


def breakable(name: str) -> Markup:
    """``name``, escaped, that may go on in a new line after an owner or folder."""
    return Markup(escape(name).replace("/", Markup("/<wbr>")))


def _figures(data: ReportData) -> dict[str, tuple[Markup, Markup]]:
    """The figures that have something to show, each for wide and for narrow screens."""
    drawings: dict[str, tuple[Callable[[ReportData, style.Layout], Figure], str]] = {
        "curves": (figure.curves, "Learning curves of the candidates, measured and extrapolated")
    }
    if predictor_tables.by_budget(data):
        drawings["budgets"] = (budget_figure.budgets, "Scores of the predictors at every budget")
    if data.kernels:
        drawings["kernels"] = (
            diagnostic_figures.kernels,
            "Kernel spectra and decay of the residual",
        )
    if len(data.bounds):
        drawings["bound"] = (curvature_figures.bound, "Terms of the Hessian bound for each cell")
    if len(data.crossings):
        drawings["crossing"] = (
            crossing_figure.crossing,
            "The bound's curvature term against its remainder, where they cross, and the law's D*",
        )
    if data.densities:
        drawings["density"] = (curvature_figures.density, "Spectral densities of the Hessians")
    if len(data.drift):
        drawings["drift"] = (diagnostic_figures.drift, "Distance of each subset from the full set")
    return {
        name: (
            inline(draw(data, style.WIDE), f"{name}-wide", words),
            inline(draw(data, style.NARROW), f"{name}-narrow", words),
        )
        for name, (draw, words) in drawings.items()
    }


def inline(drawing: Figure, name: str, description: str) -> Markup:
    # matplotlib escapes every text it writes into an SVG, so the drawing is safe as it stands
    return Markup(style.svg(drawing, name, description))
